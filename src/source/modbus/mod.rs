//! stub
use crate::config;
use crate::reading::Name;
use crate::source::Context;
#[allow(clippy::unused_async)]
pub(crate) async fn run(_source: Name, _stream: Name, _config: config::Modbus, _context: Context) {
    todo!()
}
