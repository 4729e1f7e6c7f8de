//! Every kind of mistake: its line, column, key, and what the message must say.

use super::{WHOLE, parse};

/// Asserts that `text` has exactly these mistakes, each `line:column: key: ` and words that its message holds.
#[track_caller]
fn refused(text: &str, expected: &[(&str, &[&str])]) {
    let errors = match parse(text) {
        Err(errors) => errors,
        Ok(_) => panic!("passed:\n{text}"),
    };
    assert_eq!(errors.problems.len(), expected.len(), "in\n{text}\n{errors}");
    for (problem, (place, words)) in errors.problems.iter().zip(expected) {
        let shown = problem.to_string();
        assert!(shown.starts_with(&format!("forebay.toml:{place}: ")), "wanted {place}, got {shown}");
        for word in *words {
            assert!(problem.message.contains(word), "wanted {word:?} in {shown}");
        }
    }
}

/// A source of the given type and lines; its first own line is line 4.
fn source(kind: &str, lines: &str) -> String {
    format!("[[source]]\nname = \"s\"\ntype = \"{kind}\"\n{lines}\n")
}

/// A register of one unit; the register's table begins at 8:14.
fn register(register: &str) -> String {
    source(
        "modbus",
        &format!("connect = \"tcp://plc\"\n[[source.unit]]\nid = 1\ndevice = \"d\"\nregisters = [{register}]"),
    )
}

#[test]
fn syntax() {
    refused("[queue]\nwindow = 1s\n", &[("2:10", &["not valid TOML", "quoted"])]);
    refused("a = 1\na = 2\n", &[("2:1", &["not valid TOML", "duplicate"])]);
}

#[test]
fn unknown_keys_with_the_nearest_known_one() {
    refused(
        "[queue]\nwndow = \"1s\"",
        &[("2:1: queue.wndow", &["unknown key", "did you mean \"window\"?", "tail-bytes"])],
    );
    refused("[kafak]\n", &[("1:2: kafak", &["did you mean \"kafka\"?"])]);
    refused(&source("simulated", "port = \"/dev/x\""), &[("4:1: source[1].port", &["unknown key", "devices"])]);
    refused(
        &source("simulate", "port = 1"),
        &[("3:8: source[1].type", &["\"simulate\" is not known", "\"simulated\""])],
    );
}

#[test]
fn missing_keys() {
    refused("[kafka]\n", &[("1:1: kafka.brokers", &["missing", "host:port"])]);
    refused(
        "[[source]]\ntype = \"gnss\"",
        &[("1:1: source[1].name", &["missing"]), ("1:1: source[1].port", &["missing", "an absolute path such as"])],
    );
    refused("[[source]]\nname = \"s\"", &[("1:1: source[1].type", &["missing", "\"gnss\""])]);
}

#[test]
fn durations_sizes_numbers_and_words() {
    refused(
        "[queue]\nwindow = \"1 parsec\"",
        &[("2:10: queue.window", &["\"1 parsec\" is not a duration", "50ms to 1h"])],
    );
    refused("[queue]\nwindow = 1", &[("2:10: queue.window", &["1 is not a duration"])]);
    refused("[queue]\nwindow = \"1ms\"", &[("2:10: queue.window", &["out of range", "50ms to 1h"])]);
    refused("[queue]\nsize = \"1 MiB\"", &[("2:8: queue.size", &["\"1 MiB\" is out of range", "16 MiB to 1 TiB"])]);
    refused(
        "[[stream]]\nname = \"a\"\nretention = { size = \"1 KiB\", age = \"1s\" }",
        &[
            ("3:22: stream[1].retention.size", &["\"1 KiB\" is out of range", "1 MiB to 1 TiB"]),
            ("3:37: stream[1].retention.age", &["\"1s\" is out of range", "1min to"]),
        ],
    );
    refused("[queue]\ncompression = \"zip\"", &[("2:15: queue.compression", &["\"zip\" is not known", "\"lz4\""])]);
    refused("[mqtt]\nbroker = \"mqtt://b\"\nqos = 3", &[("3:7: mqtt.qos", &["3 is out of range", "0 to 2"])]);
    refused("[mqtt]\nbroker = \"mqtt://b\"\nretain = 1", &[("3:10: mqtt.retain", &["true, false"])]);
    refused("queue = 5", &[("1:9: queue", &["5 is not a table"])]);
    refused("source = 5", &[("1:10: source", &["5 is not a list"])]);
}

#[test]
fn what_comes_later_is_refused_and_never_ignored() {
    let later = |text: &str, place: &str| refused(text, &[(place, &["not yet supported"])]);
    later(&source("gnss", "port = \"gpsd://127.0.0.1:2947\""), "4:8: source[1].port");
    later(&source("serial", "port = \"/dev/x\"\nformat = \"cobs\""), "5:10: source[1].format");
    later(
        &source(
            "modbus",
            "connect = \"rtu+tcp://h:1\"\nunit = [{ id = 1, device = \"d\", registers = [{ name = \"a\", coil = 1 }] }]",
        ),
        "4:11: source[1].connect",
    );
    later(&register("{ name = \"a\", holding = 1, deadband = 0.2 }"), "8:41: source[1].unit[1].registers[1].deadband");
    later("[mqtt]\nbroker = \"mqtts://b\"", "2:10: mqtt.broker");
    let yard = source("mqtt", "topics = [\"a/+\"]\nretained = \"mark\"");
    later(&format!("{yard}[mqtt]\nbroker = \"mqtt://b\""), "5:1: source[1].retained");
}

#[test]
fn a_key_that_cannot_be_used_is_named_with_its_file_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("forebay.toml");
    let key = |name: &str, bytes: &[u8], mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    key("short", b"hunter2", 0o600);
    key("open", &(0..32).collect::<Vec<u8>>(), 0o644);
    key("good", &(0..32).collect::<Vec<u8>>(), 0o400);
    let problems = |queue: &str| {
        std::fs::write(&file, format!("[queue]\n{queue}\n")).unwrap();
        forebay::config::load(&file).map_err(|errors| errors.to_string())
    };
    let errors =
        problems("key = \"short\"\nold-keys = [\"good\", \"open\", \"missing\", \"credential:a/b\"]").unwrap_err();
    for part in [
        "2:7: queue.key: ",
        "holds 7 bytes that are no key",
        "queue.old-keys: ",
        "mode 0644",
        "No such file",
        "credential:a/b",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(!errors.contains("hunter2"), "{errors}");
    let loaded = problems("key = \"good\"").unwrap();
    assert!(loaded.config.queue.keys.current.is_some());
    assert!(format!("{:?}", loaded.config.queue).contains("***"));
}

#[test]
fn names_are_unique_legal_and_not_reserved() {
    let two = format!("{}{}", source("simulated", ""), source("simulated", ""));
    refused(&two, &[("6:8: source[2].name", &["\"s\" is taken", "among sources"])]);
    refused("[[stream]]\nname = \"a\"\n[[stream]]\nname = \"a\"", &[("4:8: stream[2].name", &["\"a\" is taken"])]);
    refused("[[stream]]\nname = \"a b\"\ntopic = \"t\"", &[("2:8: stream[1].name", &["\"a b\" is not a valid name"])]);
    refused(
        "[[stream]]\nname = \"a\"\ntopic = \"a/b\"",
        &[("3:9: stream[1].topic", &["\"a/b\" is not a Kafka topic", "249"])],
    );
    refused("[gateway]\nid = \"a/b\"", &[("2:6: gateway.id", &["letters"])]);
    refused("[gateway]\nid = \"a\"\ntags = { seq = \"1\" }", &[("3:16: gateway.tags.seq", &["reserved"])]);
    refused("[gateway]\nid = \"a\"\ntags = { n = 1 }", &[("3:14: gateway.tags.n", &["1 is not text"])]);
    refused("[gateway]\nstate-dir = \"x\"", &[("2:13: gateway.state-dir", &["\"x\" is not absolute"])]);
    refused(
        &register("{ name = \"time\", coil = 1 }"),
        &[("8:23: source[1].unit[1].registers[1].name", &["\"time\" is reserved"])],
    );
    let tagged = format!("[gateway]\ntags = {{ site = \"n\" }}\n{}", register("{ name = \"site\", coil = 1 }"));
    refused(&tagged, &[("10:23: source[1].unit[1].registers[1].name", &["name of a tag"])]);
    let columns = "port = \"/dev/x\"\nformat = \"csv\"\ncolumns = [\"a\", \"\", \"run\", \"a\"]";
    refused(
        &source("serial", columns),
        &[
            ("6:21: source[1].columns[3]", &["\"run\" is reserved"]),
            ("6:28: source[1].columns[4]", &["\"a\" is taken"]),
        ],
    );
    refused(&source("gnss", "port = \"/dev/x\"\ndevice = \"\""), &[("5:10: source[1].device", &["is empty"])]);
}

#[test]
fn references_and_counts() {
    refused(
        &source("simulated", "stream = \"alarm\""),
        &[("4:10: source[1].stream", &["\"alarm\" is not a stream", "telemetry"])],
    );
    let streams: String = (0..16).map(|n| format!("[[stream]]\nname = \"s{n}\"\n")).collect();
    refused(&streams, &[("31:1: stream[16]", &["at most 16", "telemetry"])]);
    let sources: String = (0..65).map(|n| format!("[[source]]\nname = \"s{n}\"\ntype = \"simulated\"\n")).collect();
    refused(&sources, &[("193:1: source[65]", &["at most 64"])]);
}

#[test]
fn modbus_addresses_ids_and_registers() {
    let at = "8:14: source[1].unit[1].registers[1]";
    refused(
        &register("{ name = \"a\", holding = 65535, type = \"f32\" }"),
        &[("8:38: source[1].unit[1].registers[1].holding", &["65537", "at most 65536"])],
    );
    refused(
        &register("{ name = \"a\", holding = 65536 }"),
        &[("8:38: source[1].unit[1].registers[1].holding", &["65536 is out of range"])],
    );
    refused(&register("{ name = \"a\" }"), &[(at, &["no address", "exactly one"])]);
    refused(&register("{ name = \"a\", coil = 1, input = 2 }"), &[(at, &["input, coil are written"])]);
    refused(
        &register("{ name = \"a\", holding = 1, order = \"cdab\" }"),
        &[("8:49: source[1].unit[1].registers[1].order", &["32 bits"])],
    );
    refused(
        &register("{ name = \"a\", coil = 1, type = \"u16\" }"),
        &[("8:45: source[1].unit[1].registers[1].type", &["bits"])],
    );
    refused(
        &register("{ name = \"a\", input = 1, scale = 0 }"),
        &[("8:47: source[1].unit[1].registers[1].scale", &["0 would"])],
    );
    let rtu = register("{ name = \"a\", coil = 1 }").replace("tcp://plc", "rtu:///dev/x").replace("id = 1", "id = 0");
    refused(&rtu, &[("6:6: source[1].unit[1].id", &["0 is out of range", "1 to 247"])]);
    let query = register("{ name = \"a\", coil = 1 }").replace("tcp://plc", "rtu:///dev/x?baud=x&speed=1");
    refused(
        &query,
        &[
            ("4:11: source[1].connect.speed", &["unknown key", "baud"]),
            ("4:11: source[1].connect.baud", &["\"x\" is not a whole number"]),
        ],
    );
    refused(&source("modbus", "connect = \"tcp://plc\""), &[("1:1: source[1].unit", &["missing"])]);
}

#[test]
fn one_tty_belongs_to_one_source() {
    let first = source("gnss", "port = \"/dev/ttyS1\"");
    let second = source("serial", "port = \"/dev/ttyS1\"\npreset = \"pms5003\"").replace("\"s\"", "\"air\"");
    refused(
        &format!("{first}{second}"),
        &[("8:8: source[2].port", &["\"/dev/ttyS1\" is the port of source \"s\" too"])],
    );
    assert!(parse(&format!("{first}{second}enabled = false\n")).is_ok(), "a disabled source opens nothing");
}

#[test]
fn mqtt_filters_never_take_in_what_we_publish() {
    let with =
        |topics: &str| format!("{}[mqtt]\nbroker = \"mqtt://b\"\n[gateway]\nid = \"g\"\n", source("mqtt", topics));
    refused(
        &with("topics = [\"a\", \"#\"]"),
        &[("4:16: source[1].topics", &["\"#\" takes in", "forebay/g/{device}", "mqtt.topic"])],
    );
    refused(&with("topics = [\"forebay/g/status\"]"), &[("4:11: source[1].topics", &["forebay/g/"])]);
    let status = with("topics = [\"x/+/status\"]").replace("mqtt://b\"", "mqtt://b\"\ntopic = \"x/{device}\"");
    refused(&status, &[("4:11: source[1].topics", &["x/g/status", "the agent's status"])]);
    refused(&with("topics = [\"a/#/b\"]"), &[("4:11: source[1].topics", &["not an MQTT topic filter"])]);
    refused(&with("topics = []"), &[("4:10: source[1].topics", &["0 elements"])]);
    refused(
        &with("topics = [\"a\"]\ndevice = \"{topic.x}\""),
        &[("5:10: source[1].device", &["unknown part", "topic.x"])],
    );
    refused(&source("mqtt", "topics = [\"a\"]"), &[("1:1: source[1].type", &["needs the local broker"])]);
}

#[test]
fn brokers_and_credentials() {
    refused(
        "[kafka]\nbrokers = [\"k:1\", \"kafka\"]",
        &[("2:19: kafka.brokers", &["\"kafka\" is not a broker", "host:port"])],
    );
    refused("[mqtt]\nbroker = \"mqtt://u:p@b\"", &[("2:10: mqtt.broker", &["credentials", "password-file"])]);
    refused("[mqtt]\nbroker = \"mqtt://b\"\npassword = \"x\"", &[("3:1: mqtt.password", &["unknown key"])]);
    refused("[mqtt]\nbroker = \"mqtt://b\"\ntopic = \"a/{x}\"", &[("3:9: mqtt.topic", &["{x}"])]);
    let kafka = "[kafka]\nbrokers = [\"k:1\"]\n";
    refused(&format!("{kafka}tls = {{ cert = \"c\" }}"), &[("3:16: kafka.tls.cert", &["without key"])]);
    let sasl = |keys: &str| format!("{kafka}sasl = {{ {keys} }}");
    refused(&sasl("mechanism = \"OAUTHBEARER\""), &[("3:8: kafka.sasl.token-file", &["missing", "token-command"])]);
    refused(
        &sasl("mechanism = \"OAUTHBEARER\", token-file = \"t\", token-command = [\"c\"]"),
        &[("3:71: kafka.sasl.token-command", &["token-file is written too"])],
    );
    refused(
        &sasl("mechanism = \"OAUTHBEARER\", token-file = \"t\", username = \"u\", token-lifetime = \"1s\""),
        &[
            ("3:66: kafka.sasl.username", &["no meaning", "OAUTHBEARER"]),
            ("3:88: kafka.sasl.token-lifetime", &["\"1s\" is out of range", "10s to"]),
        ],
    );
    refused(
        &sasl("mechanism = \"SCRAM-SHA-256\", username = \"u\", password-file = \"p\", token-file = \"t\""),
        &[("3:89: kafka.sasl.token-file", &["no meaning", "SCRAM-SHA-256"])],
    );
    refused(
        &sasl("mechanism = \"OAUTHBEARER\", token-command = []"),
        &[("3:53: kafka.sasl.token-command", &["0 elements"])],
    );
    refused(
        &sasl("mechanism = \"PLAIN\", password-file = \"p\""),
        &[("3:8: kafka.sasl.username", &["missing", "PLAIN"])],
    );
    refused(
        &format!("{kafka}sasl = {{ mechanism = \"PLAIN\", username = \"u\" }}"),
        &[("3:8: kafka.sasl.password-file", &["missing"])],
    );
    refused(
        &format!("{kafka}[kafka.properties]\n\"acks\" = 1\n\"message.timeout.ms\" = 5\n\"socket.timeout.ms\" = 1000"),
        &[
            ("4:1: kafka.properties.\"acks\"", &["in-sync"]),
            ("5:1: kafka.properties.\"message.timeout.ms\"", &["retry store"]),
        ],
    );
    refused("[status]\nlisten = \"9273\"", &[("2:10: status.listen", &["not an address"])]);
}

#[test]
fn all_mistakes_of_a_file_are_shown_at_once_in_its_order() {
    let text = WHOLE
        .replace("port = \"usb:1546:01a8\"", "port = \"usb:zz\"")
        .replace("every = \"1s\"", "every = \"1 sec\"")
        .replace("priority = 9", "priority = 10")
        .replace("listen =", "lisen =");
    refused(
        &text,
        &[
            ("10:8: source[1].port", &["usb:zz", "hexadecimal"]),
            ("21:11: source[2].unit[1].every", &["\"1 sec\" is not a duration"]),
            ("59:12: stream[2].priority", &["10 is out of range", "0 to 9"]),
            ("71:1: status.lisen", &["did you mean \"listen\"?"]),
        ],
    );
}

#[test]
fn columns_count_characters_and_the_list_of_mistakes_is_bounded() {
    refused("[gateway]\ntags = { \"größe\" = 1 }", &[("2:20: gateway.tags.größe", &["1 is not text"])]);
    let many: String = (0..300).map(|n| format!("k{n} = 1\n")).collect();
    let errors = parse(&many).unwrap_err();
    assert_eq!((errors.problems.len(), errors.more), (forebay::config::PROBLEMS_MAX, 100));
    assert!(errors.to_string().ends_with("and 100 more"));
}

#[test]
fn rates_and_budgets() {
    let kafka = |line: &str| format!("[kafka]\nbrokers = [\"k:1\"]\n{line}");
    refused(&kafka("rate = {}"), &[("3:8: kafka.rate.records", &["missing", "records, bytes or both"])]);
    refused(&kafka("rate = { records = 0 }"), &[("3:20: kafka.rate.records", &["0 is out of range", "1 to 1000000"])]);
    refused(&kafka("budget = {}"), &[("3:10: kafka.budget.day", &["missing", "day, month or both"])]);
    refused(&kafka("budget = { day = \"1 kB\" }"), &[("3:18: kafka.budget.day", &["out of range", "64 KiB"])]);
    refused(
        &kafka("budget = { day = \"1 MB\", reserve = \"95%\" }"),
        &[("3:36: kafka.budget.reserve", &["\"95%\" is not such a percentage", "\"90%\""])],
    );
    let stream = "[[stream]]\nname = \"a\"\nrate = { bytes = \"10\" }";
    refused(stream, &[("3:18: stream[1].rate.bytes", &["is not a size"])]);
}

#[test]
fn newest_first_does_not_go_with_exactly_once() {
    let text = "[kafka]\nbrokers = [\"k:1\"]\ndrain = \"newest-first\"\ndelivery = \"exactly-once\"\n\
                [[stream]]\nname = \"a\"\ndrain = \"newest-first\"\n";
    let problems = parse(text).unwrap_err().problems;
    for place in ["forebay.toml:3:9: kafka.drain", "forebay.toml:4:12: kafka.delivery"] {
        let named = |problem: &&forebay::config::Problem| problem.to_string().starts_with(place);
        assert!(problems.iter().filter(named).any(|problem| problem.message.contains("does not go with")), "{place}");
    }
}

#[test]
fn encodings_and_the_registry() {
    let kafka = "[kafka]\nbrokers = [\"k:1\"]\n";
    refused(&format!("{kafka}encoding = \"avro\""), &[("3:12: kafka.encoding", &["\"avro\"", "needs kafka.registry"])]);
    refused(&format!("{kafka}encoding = \"xml\""), &[("3:12: kafka.encoding", &["not known", "protobuf"])]);
    refused(
        &format!("[[stream]]\nname = \"a\"\nencoding = \"protobuf\"\nshape = \"long\"\n{kafka}"),
        &[
            ("3:12: stream[1].encoding", &["stream \"a\"", "needs kafka.registry"]),
            ("4:9: stream[1].shape", &["narrow"]),
        ],
    );
    let registry = |table: &str| format!("{kafka}encoding = \"avro\"\nregistry = {{ {table} }}");
    refused(&registry("url = \"r:8081\""), &[("4:20: kafka.registry.url", &["http://"])]);
    refused(&registry("url = \"http://u:p@r\""), &[("4:20: kafka.registry.url", &["password-file"])]);
    refused(&registry("url = \"http://r\", ca = \"x\""), &[("4:37: kafka.registry.ca", &["https"])]);
    refused(
        &registry("url = \"https://r\", password-file = \"x\", timeout = \"10ms\""),
        &[("4:12: kafka.registry.username", &["missing"]), ("4:64: kafka.registry.timeout", &["out of range"])],
    );
    refused(&registry("url = \"https://r\", username = \"a:b\""), &[("4:44: kafka.registry.username", &["user name"])]);
    let topics =
        "[[stream]]\nname = \"a\"\ntopic = \"t\"\nshape = \"narrow\"\n[[stream]]\nname = \"b\"\ntopic = \"t\"\n";
    refused(
        &format!("{topics}{kafka}"),
        &[("8:1: kafka.encoding", &["\"a\" (json and narrow)", "share the topic \"t\""])],
    );
    refused(
        &format!("[gateway]\ntags = {{ Metric = \"x\" }}\n{kafka}shape = \"narrow\""),
        &[("3:1: kafka.encoding", &["narrow", "tag \"Metric\"", "value, integer"])],
    );
}

#[test]
fn a_field_has_one_type_in_a_schema() {
    let registers = "registers = [{ name = \"t\", holding = 1, scale = 0.1 }, { name = \"on\", coil = 1 }]";
    let text = |kafka: &str| {
        format!(
            "[[source]]\nname = \"plc\"\ntype = \"modbus\"\nconnect = \"tcp://h:1\"\nunit = [{{ id = 1, device = \"d\", {registers} }}]\n\
             [[source]]\nname = \"air\"\ntype = \"serial\"\nport = \"/dev/ttyS1\"\nformat = \"csv\"\n\
             columns = [\"t\", {{ name = \"on\", type = \"text\" }}]\n[kafka]\nbrokers = [\"k:1\"]\n{kafka}"
        )
    };
    let registry = "registry = { url = \"http://r\" }";
    refused(
        &text(&format!("encoding = \"avro\"\n{registry}")),
        &[("14:12: kafka.encoding", &["\"on\"", "a boolean in source \"plc\"", "text in source \"air\"", "rename"])],
    );
    for passes in [String::new(), format!("encoding = \"avro\"\nshape = \"narrow\"\n{registry}")] {
        assert!(parse(&text(&passes)).is_ok(), "{passes}");
    }
}
