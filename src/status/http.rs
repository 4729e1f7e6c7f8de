//! The small HTTP/1.1 server: bounded connections, GET and HEAD only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{View, health, report};

/// Most connections at once; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 16;
/// Longest life of one connection.
const CONNECTION_SECONDS_MAX: u64 = 60;
/// Longest wait for a request's headers.
const HEADER_SECONDS_MAX: u64 = 10;
/// Largest request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Accepts until `stop` is cancelled.
pub(super) async fn serve(listener: TcpListener, view: Arc<View>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (Ok(place), outcome) = accepted else { return };
        match outcome {
            Ok((connection, _)) => {
                let (view, stop) = (Arc::clone(&view), stop.clone());
                tokio::spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = answer_connection(connection, view) => {}
                    }
                });
            }
            // Out of file descriptors or the like: wait instead of spinning.
            Err(error) => {
                tracing::warn!(error = %error, "status listener cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer_connection(connection: TcpStream, view: Arc<View>) {
    let service = service_fn(move |request| {
        let view = Arc::clone(&view);
        async move { Ok::<_, Infallible>(answer(request, view).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX))
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), service);
    // A client that breaks off is its own matter.
    let _ = tokio::time::timeout(Duration::from_secs(CONNECTION_SECONDS_MAX), serving).await;
}

async fn answer(request: Request<Incoming>, view: Arc<View>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n".into());
        // RFC 9110, 15.5.6: a 405 says what would do.
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let path = request.uri().path().to_owned();
    // The queue's status takes short locks that the store thread holds too: not on an async worker.
    let answered = tokio::task::spawn_blocking(move || route(&path, &view)).await;
    answered.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "status could not be read\n".into()))
}

fn route(path: &str, view: &View) -> Response<Full<Bytes>> {
    match path {
        "/" => with_type(StatusCode::OK, "text/html; charset=utf-8", include_str!("page.html").into()),
        "/metrics" => with_type(StatusCode::OK, report::METRICS_CONTENT_TYPE, report::metrics(view)),
        "/status" => with_type(StatusCode::OK, "application/json", report::status(view)),
        "/healthz" => verdict(health::healthy(view)),
        "/readyz" => verdict(health::ready(view)),
        _ => text(
            StatusCode::NOT_FOUND,
            format!("nothing at {path:.100}; here are /, /metrics, /status, /healthz and /readyz\n"),
        ),
    }
}

fn verdict(found: Result<(), String>) -> Response<Full<Bytes>> {
    match found {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn text(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(code, "text/plain; charset=utf-8", body)
}

fn with_type(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
