//! stub
use crate::config::MqttSource;
use crate::reading::Name;
use crate::source::Context;
pub(crate) async fn run(_name: Name, _stream: Name, _config: MqttSource, _context: &Context) {
    todo!()
}
