// SPDX-License-Identifier: MIT

//! tasks.rs: a tokio task per connection, and hyper for the fetch. A task is a
//! state machine that the compiler makes of an async function; a few threads
//! run them all, tokio's default being one per core.
//! Run: build/peers/tasks --listen HOST:PORT --upstream URL [--no-keepalive]
//! Keep in your head: a task is cancelled by dropping it, at any await, which
//! is what a timeout does. A fetch that stops half-way must leave nothing
//! behind. What tasks share, the compiler asks for.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::HttpBody;
use hyper::client::HttpConnector;
use hyper::{header, Body, Client, Request, StatusCode, Uri};
use percent_encoding::{percent_encode, AsciiSet, NON_ALPHANUMERIC};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

const MAX_LINE: usize = 65536; // bytes, without CR and LF
const MAX_BODY: usize = 1 << 20; // bytes of an upstream's answer
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const BACKLOG: u32 = 4096;

/// All that a URL does not take as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why a line has no answer.
enum Failure {
    LineTooLong,
    BodyTooLarge,
    TimedOut,
    Status(StatusCode),
    Http(hyper::Error),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Failure::Http(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::LineTooLong => f.write_str("line too long"),
            Failure::BodyTooLarge => f.write_str("upstream body too large"),
            Failure::TimedOut => f.write_str("upstream timed out"),
            Failure::Status(status) => {
                write!(f, "upstream returned {}", status.as_u16())
            }
            Failure::Http(error) => f.write_str(reason(error)),
        }
    }
}

/// The error of a socket or of a body that is below hyper's, if there is one.
fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

/// The reason that the client gets for an error of hyper's.
fn reason(error: &hyper::Error) -> &'static str {
    use ErrorKind::*;
    let io = io_error(error);
    let number = io.and_then(io::Error::raw_os_error);
    match io.map(io::Error::kind) {
        _ if error.is_incomplete_message() => "upstream closed early",
        _ if error.is_parse() => "upstream sent bad HTTP",
        Some(InvalidData | InvalidInput) => "upstream sent bad HTTP",
        Some(ConnectionReset | BrokenPipe | UnexpectedEof) => {
            "upstream closed early"
        }
        Some(ConnectionRefused) => "upstream refused",
        Some(AddrNotAvailable) => "no local port left",
        _ if error.is_connect() && number.is_none() => "upstream not found",
        _ => "upstream failed",
    }
}

/// Whether a connection that was kept may have been closed before the request.
fn is_stale(error: &hyper::Error) -> bool {
    !error.is_connect() && reason(error) == "upstream closed early"
}

/// Fetches from the upstream; all tasks use the same one.
struct Fetcher {
    client: Client<HttpConnector>,
    prefix: String, // URL?text=
    keepalive: bool,
}

impl Fetcher {
    fn new(upstream: &str, keepalive: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut client = Client::builder();
        if !keepalive {
            client.pool_max_idle_per_host(0);
        }
        let question = if upstream.contains('?') { '&' } else { '?' };
        Fetcher {
            client: client.build(connector),
            prefix: format!("{upstream}{question}text="),
            keepalive,
        }
    }

    fn request(&self, uri: Uri) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri;
        if !self.keepalive {
            let close = header::HeaderValue::from_static("close");
            request.headers_mut().insert(header::CONNECTION, close);
        }
        request
    }

    async fn fetch(&self, line: &[u8]) -> Result<Vec<u8>, Failure> {
        let url = format!("{}{}", self.prefix, percent_encode(line, ESCAPED));
        // A Uri holds 65,534 bytes: so a line may be too long once encoded.
        let uri = Uri::try_from(url).map_err(|_| Failure::LineTooLong)?;
        let mut response =
            match self.client.request(self.request(uri.clone())).await {
                Err(error) if is_stale(&error) => {
                    self.client.request(self.request(uri)).await?
                }
                result => result?,
            };
        if !response.status().is_success() {
            return Err(Failure::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(data) = response.body_mut().data().await {
            body.extend_from_slice(&data?);
            if body.len() > MAX_BODY {
                return Err(Failure::BodyTooLarge);
            }
        }
        Ok(body)
    }
}

/// Reads a line; Ok(None) is the end of the input.
async fn read_line(
    client: &mut BufReader<TcpStream>,
) -> io::Result<Option<Result<Vec<u8>, Failure>>> {
    let mut line = Vec::new();
    let most = MAX_LINE as u64 + 2; // with CR and LF
    client.take(most).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    let mut whole = line.ends_with(b"\n");
    if whole {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    if line.len() <= MAX_LINE {
        return Ok(Some(Ok(line)));
    }
    while !whole {
        line.clear();
        let rest = client.take(most).read_until(b'\n', &mut line).await?;
        whole = rest == 0 || line.ends_with(b"\n");
    }
    Ok(Some(Err(Failure::LineTooLong)))
}

/// The body as one line: without the line breaks at its end, and with a space
/// for each other run of them.
fn echo(body: &[u8]) -> Vec<u8> {
    let mut reply = b"echo: ".to_vec();
    let mut in_break = false;
    for &byte in body {
        if byte == b'\r' || byte == b'\n' {
            in_break = true;
            continue;
        }
        if in_break {
            reply.push(b' ');
        }
        in_break = false;
        reply.push(byte);
    }
    reply.push(b'\n');
    reply
}

/// Reads a line, fetches, writes, until the client has no more.
async fn serve_connection(
    client: TcpStream,
    upstream: &Fetcher,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    while let Some(line) = read_line(&mut client).await? {
        let body = match line {
            Ok(line) => timeout(FETCH_TIMEOUT, upstream.fetch(&line))
                .await
                .unwrap_or(Err(Failure::TimedOut)),
            Err(failure) => Err(failure),
        };
        let reply = match body {
            Ok(body) => echo(&body),
            Err(failure) => format!("error: {failure}\n").into_bytes(),
        };
        timeout(SEND_TIMEOUT, client.write_all(&reply)).await??;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(address: SocketAddr, upstream: Arc<Fetcher>) -> io::Result<()> {
    let listener = listen(address)?;
    eprintln!("tasks: listening on {}", listener.local_addr()?);
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    serve_connection(client, &upstream).await
                });
            }
            Err(error) => {
                eprintln!("tasks: {error}");
                sleep(Duration::from_millis(100)).await; // out of descriptors
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = pico_args::Arguments::from_env();
    let address = options
        .opt_value_from_str("--listen")?
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let upstream = options
        .opt_value_from_str("--upstream")?
        .unwrap_or_else(|| "http://127.0.0.1:8081/arrpi.php".to_string());
    let keepalive = !options.contains("--no-keepalive");

    rlimit::increase_nofile_limit(u64::MAX)?;
    let upstream = Arc::new(Fetcher::new(&upstream, keepalive));
    Runtime::new()?.block_on(serve(address, upstream))?;
    Ok(())
}
