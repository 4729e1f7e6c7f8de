//! TLS, logins and rights on a node with an authorizer that gives a gateway exactly what `docs/kafka-acls.md` tells.

mod acls;
mod authority;
mod cluster;
mod dead_letters;
mod logins;
mod online;
mod rotations;
mod stage;
mod transactions;
