//! Every way between the roles over TLS, each a process of its own: registry, gate, hub and worker speak it at their
//! addresses, and every url is https.

use std::path::Path;
use std::time::Duration;

use munjigi_foundation::tls;
use munjigi_testkit::{Program, eventually, free_port};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{VULNERABLE, binary};

/// `ca.pem`, and `web.pem` with `web.key` for this machine.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "an authority for tests");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    std::fs::write(folder.join("web.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("web.key"), key.serialize_pem()).unwrap();
}

/// The settings of each process, and where users come.
fn settings(folder: &Path) -> (Vec<(&'static str, String)>, String) {
    let [web, inner, registry, hub] = std::array::from_fn(|_| free_port().unwrap());
    let cluster = "[cluster]\nsecret_file = \"cluster.secret\"\n";
    let tls = "tls = { certificate = \"web.pem\", key = \"web.key\" }";
    let trust = "ca_file = \"ca.pem\"";
    let urls = format!("registry = [\"https://127.0.0.1:{registry}/eureka\"]");
    let listener = |name: &str, port: u16| {
        format!("[[gate.listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n{tls}\n")
    };
    let route = |name: &str, listener: &str, path: &str, service: &str, more: &str| {
        format!(
            "[[gate.route]]\nname = \"{name}\"\nlistener = [\"{listener}\"]\npath = \"{path}\"\nservice = \"{service}\"\n{more}\n"
        )
    };
    let service = |name: &str| {
        format!("[gate.service.{name}]\nnetworks = [\"127.0.0.0/8\"]\ntls = {{ {trust} }}\n")
    };
    let gate = [
        "[gate]\nthreads = 1".to_owned(),
        listener("web", web),
        listener("inner", inner),
        route("app", "web", "/", "HUB", ""),
        route("events", "inner", "/internal", "HUB", ""),
        route(
            "analysis",
            "inner",
            "/analysis",
            "MODEL-SERVER",
            "where = \"metadata.serverId = query.serverId\"",
        ),
        service("HUB"),
        service("MODEL-SERVER"),
        format!("[gate.registry]\nurls = [\"https://127.0.0.1:{registry}/eureka\"]\n{trust}\n"),
        "[gate.admin]\nsocket = \"admin.sock\"\n".to_owned(),
    ];
    let files = vec![
        (
            "registry",
            format!("{cluster}[registry]\naddress = \"127.0.0.1:{registry}\"\n{tls}\n"),
        ),
        ("gate", format!("{cluster}{}", gate.join("\n"))),
        (
            "hub",
            format!(
                "{cluster}[hub]\naddress = \"127.0.0.1:{hub}\"\ndata = \"hub\"\ngate = \"https://127.0.0.1:{inner}\"\n{urls}\n{tls}\n{trust}\n"
            ),
        ),
        (
            "worker",
            format!(
                "{cluster}[worker]\ndata = \"worker\"\nhub = \"https://127.0.0.1:{inner}\"\n{urls}\n{tls}\n{trust}\n"
            ),
        ),
    ];
    for (name, text) in &files {
        std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
    }
    (files, format!("https://127.0.0.1:{web}"))
}

/// A token of the first user, made as a browser does.
async fn token(base: &str, link: &str, ca: &Path) -> String {
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::for_urls(Some(ca)).unwrap())
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let ready = async || {
        http.get(format!("{base}/ready"))
            .send()
            .await
            .ok()?
            .error_for_status()
            .ok()
    };
    eventually("the hub is ready", Duration::from_secs(60), ready)
        .await
        .unwrap();
    let (_, link) = link.split_once("token=").unwrap();
    let answer = http
        .get(format!("{base}/sign-in?token={link}"))
        .send()
        .await
        .unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.contains("Secure"),
        "the hub knows that it is https: {cookie}"
    );
    let made = http
        .post(format!("{base}/api/tokens"))
        .header("cookie", cookie.split(';').next().unwrap())
        .header("origin", base)
        .json(&json!({"name": "test"}))
        .send()
        .await
        .unwrap();
    let made: Value = made.error_for_status().unwrap().json().await.unwrap();
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_through_with_every_way_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder);
    std::fs::write(
        folder.join("cluster.secret"),
        "a-secret-of-the-cluster-for-tests-only",
    )
    .unwrap();
    std::fs::write(folder.join("app.py"), VULNERABLE).unwrap();
    let (files, base) = settings(folder);
    let mut running = Vec::new();
    let mut link = String::new();
    for (name, _) in &files {
        let file = folder.join(format!("{name}.toml"));
        let arguments = ["run", file.to_str().unwrap()];
        let mut program =
            Program::start(binary(), &arguments, &folder.join(format!("{name}.log"))).unwrap();
        if *name == "hub" {
            link = program.line().await.unwrap();
        }
        running.push(program);
    }
    let ca = folder.join("ca.pem");
    let token = token(&base, &link, &ca).await;
    let output = Command::new(binary())
        .args([
            "submit",
            "app.py",
            "--follow",
            "--json",
            "--fail-on",
            "never",
        ])
        .current_dir(folder)
        .env("MUNJIGI_HUB", &base)
        .env("MUNJIGI_TOKEN", token)
        .env("SSL_CERT_FILE", &ca)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output)
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let logs: Vec<_> = running.iter().map(Program::log_tail).collect();
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\n{problems}\n{}",
        logs.join("\n---\n")
    );
    assert!(said.contains("\"DONE\""), "{said}");
    for program in running {
        program.stop().await.unwrap();
    }
}
