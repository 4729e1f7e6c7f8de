//! Mosquitto restarted, Modbus units of others, noise on a line, signals; Kafka is the witness throughout.
