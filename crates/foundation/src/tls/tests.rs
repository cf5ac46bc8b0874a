//! Settings with their problems, and an address that speaks TLS.

use std::path::Path;

use axum::routing::get;
use axum::{Extension, Router};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::listen::{self, Door, Limits, OverTls};
use crate::settings::{Document, Environment, Schema};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self(issuer)
    }

    fn issue(&self, folder: &Path, file: &str, until: Option<i32>) {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        if let Some(year) = until {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

fn pair(folder: &Path, file: &str) -> Pair {
    Pair {
        certificate: folder.join(format!("{file}.pem")),
        key: folder.join(format!("{file}.key")),
    }
}

static ROOT: Schema = Schema {
    place: "the settings file",
    meaning: "",
    keys: &[],
};

/// What is said about a settings file in `folder`, with the folder's name taken out.
fn problems(folder: &Path, text: &str) -> String {
    let document = Document::new(&folder.join("m.toml"), text.to_owned(), Environment::new());
    let (_, problems) = document.read(&ROOT, |table| {
        for key in ["a", "b", "c", "d", "e", "f", "g"] {
            if let Some(tls) = table.table(key, &SERVER) {
                drop(read_server(&tls));
                assert_eq!(tls.unread(), Vec::<&str>::new());
            }
        }
        for key in ["x", "y", "z"] {
            if let Some(tls) = table.table(key, &TRUST) {
                drop(read_trust(&tls));
            }
        }
        Some(())
    });
    let shown = document.render(&problems, false);
    shown.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn what_cannot_work_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ca = Authority::new(folder);
    ca.issue(folder, "good", None);
    ca.issue(folder, "other", None);
    ca.issue(folder, "old", Some(2001));
    std::fs::write(folder.join("text.pem"), "no certificate").unwrap();
    let text = r#"a = { certificate = "good.pem", key = "other.key" }
b = { certificate = "absent.pem", key = "good.key" }
c = { certificate = "text.pem", key = "good.key", client_auth = "optional" }
d = { certificate = "old.pem", key = "old.key", client_ca = "text.pem" }
e = { certificates = [{ certificate = "good.pem", key = "good.pem" }, { certificate = "good.pem" }] }
f = { internal = true }
g = { client_auth = "maybe" }
x = { ca_file = "text.pem", name = "no name" }
y = { name = "good.test", certificate = "good.pem" }
z = { internal = true }
"#;
    insta::assert_snapshot!(problems(folder, text));
    let good = r#"a = { certificate = "good.pem", key = "good.key", client_ca = "ca.pem", client_auth = "optional" }
b = { certificates = [{ certificate = "good.pem", key = "good.key" }, { certificate = "other.pem", key = "other.key" }] }
x = { ca_file = "ca.pem", name = "good.test", certificate = "good.pem", key = "good.key" }
y = { name = "10.0.0.1" }
"#;
    assert_eq!(problems(folder, good), "m.toml: 0 errors, 0 warnings\n");
}

#[test]
fn a_pair_that_does_not_fit_leaves_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ca = Authority::new(folder);
    ca.issue(folder, "a", None);
    let settings = ServerSettings {
        pairs: vec![pair(folder, "a")],
        client: Some(ClientAuth {
            ca: folder.join("ca.pem"),
            optional: true,
        }),
    };
    let tls = ServerTls::load(settings, &[]).unwrap();
    let before = (tls.certificates(), tls.config());
    ca.issue(folder, "b", Some(2100));
    std::fs::copy(folder.join("b.pem"), folder.join("a.pem")).unwrap();
    assert!(matches!(tls.refresh(), Err(TlsError::Mismatch { .. })));
    assert_eq!(tls.certificates(), before.0);
    std::fs::copy(folder.join("b.key"), folder.join("a.key")).unwrap();
    assert!(!tls.has_changed(), "it may still be written");
    tls.look("test");
    assert_ne!(tls.certificates(), before.0);
    assert!(Arc::ptr_eq(&tls.config(), &before.1), "sessions go on");
    Authority::new(folder);
    tls.refresh().unwrap();
    assert!(
        !Arc::ptr_eq(&tls.config(), &before.1),
        "others are let in now: old sessions are not"
    );
}

async fn ask(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    let mut stream = stream;
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_address_with_tls_answers_over_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Authority::new(folder).issue(folder, "a", None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = ServerSettings {
        pairs: vec![pair(folder, "a")],
        client: None,
    };
    let door = Door::open(listener, Some(&settings)).unwrap();
    let router = Router::new().route(
        "/",
        get(
            |over: Option<Extension<OverTls>>| async move { format!("sealed: {}", over.is_some()) },
        ),
    );
    let shutdown = CancellationToken::new();
    let serving = listen::serve(door, router, Limits::default(), shutdown.clone());
    let asking = async {
        let trust = for_urls(Some(&folder.join("ca.pem"))).unwrap();
        let connector = TlsConnector::from(Arc::new(trust));
        let stream = TcpStream::connect(address).await.unwrap();
        let name = server_name("a.test").unwrap();
        let sealed = connector.connect(name, stream).await.unwrap();
        assert!(ask(sealed).await.ends_with("sealed: true"));
        let plain = ask(TcpStream::connect(address).await.unwrap()).await;
        let (head, body) = plain.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{plain}"
        );
        assert!(body.contains("plain_http_on_tls_port"), "{body}");
        // Who is not believed gets no request.
        let trust = for_urls(None).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = server_name("a.test").unwrap();
        assert!(
            TlsConnector::from(Arc::new(trust))
                .connect(name, stream)
                .await
                .is_err()
        );
        shutdown.cancel();
    };
    tokio::join!(serving, asking);
}
