SUMMARY = "Edge gateway agent: GNSS, serial sensors, Modbus and local MQTT into Kafka"
DESCRIPTION = "Forebay reads GNSS receivers, serial sensors, Modbus units and local MQTT, publishes readings on the local \
MQTT broker, keeps them in a store-and-forward queue while the uplink is away, and drains the queue into Kafka."
SECTION = "network"
LICENSE = "Apache-2.0 | MIT"
LIC_FILES_CHKSUM = " \
    file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10 \
    file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302 \
"

# The layer lives in the agent's own repository and builds the tree it stands in: the recipe, the crate list and the
# source can not disagree. What bitbake fetches are the crates, by checksum.
inherit cargo systemd externalsrc features_check

EXTERNALSRC = "${@os.path.normpath(d.getVar('THISDIR') + '/../../..')}"
EXTERNALSRC_BUILD = "${WORKDIR}/build"
# Nothing of the build is to appear in the source tree.
EXTERNALSRC_SYMLINKS = ""

require forebay-crates.inc

# The unit of the agent is a systemd unit, and its sandbox is systemd's.
REQUIRED_DISTRO_FEATURES = "systemd"

# OpenSSL's configure, which openssl-src runs, wants more of Perl than build machines promise.
DEPENDS += "perl-native"

# The image build: without the demonstration's embedded brokers.
CARGO_BUILD_FLAGS += "--no-default-features --bin forebay"

SYSTEMD_SERVICE:${PN} = "forebay.service"
# Enabled, it is skipped until an image brings a configuration.
SYSTEMD_AUTO_ENABLE = "enable"

do_install:append() {
    install -D -m 0644 ${S}/systemd/forebay.service ${D}${systemd_system_unitdir}/forebay.service
    # Where the unit's Documentation= points.
    install -D -m 0644 ${S}/README.md ${D}${docdir}/${BPN}/README.md
    install -D -m 0644 ${S}/systemd/forebay.toml ${D}${docdir}/${BPN}/forebay.toml
}

# The agent talks to brokers by name.
RRECOMMENDS:${PN} += "ca-certificates"
