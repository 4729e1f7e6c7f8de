SUMMARY = "Edge gateway agent: GNSS, serial sensors, Modbus and local MQTT into Kafka"
DESCRIPTION = "Forebay reads GNSS receivers, serial sensors, Modbus units and local MQTT, publishes every reading on the \
local MQTT broker, keeps it in a store-and-forward queue while the uplink is away, and drains the queue into Kafka."
HOMEPAGE = "https://example.org/forebay"
BUGTRACKER = "https://example.org/forebay/issues"
SECTION = "network"
LICENSE = "Apache-2.0 OR MIT"
LIC_FILES_CHKSUM = " \
    file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10 \
    file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302 \
"

# A release is built from its tag. To build what a working tree holds instead, put into local.conf:
#   INHERIT += "externalsrc"
#   EXTERNALSRC:pn-forebay = "/path/to/forebay"
SRC_URI = "git://example.org/forebay.git;protocol=https;branch=main;tag=v${PV}"

require forebay-crates.inc

inherit cargo cargo-update-recipe-crates systemd useradd features_check

REQUIRED_DISTRO_FEATURES = "systemd"

# librdkafka's and OpenSSL's configure scripts are run by the crates that bring them; both are static in the binary.
DEPENDS += "perl-native make-native"

# The image build: without the demonstration's embedded brokers.
CARGO_BUILD_FLAGS += "--no-default-features --bin forebay"

# librdkafka's configure looks at these alone; cargo.bbclass exports them for cc-rs, which wants both kinds.
export HOST_CC = "${BUILD_CC}"
export HOST_CXX = "${BUILD_CXX}"
export HOST_AR = "${BUILD_AR}"

# dialout is the group of serial ports; the unit's own user is dynamic.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system dialout"

SYSTEMD_SERVICE:${PN} = "forebay.service"
# The unit does not start without a configuration, which an image brings: enabling it is safe.
SYSTEMD_AUTO_ENABLE = "enable"

do_install:append() {
    install -D -m 0644 ${S}/systemd/forebay.service ${D}${systemd_system_unitdir}/forebay.service
    install -D -m 0644 ${S}/systemd/forebay.toml ${D}${docdir}/${BPN}/forebay.toml
}

FILES:${PN}-doc += "${docdir}/${BPN}"
CONFFILES:${PN} += "${sysconfdir}/forebay/forebay.toml"

# The agent talks to brokers by name.
RRECOMMENDS:${PN} += "ca-certificates"
