//! The test bed itself: real servers start, answer, and end with their guards.

mod bed;

use std::net::TcpStream;

#[test]
fn prometheus_answers_and_ends() {
    bed::require!("prometheus");
    let server = bed::Prometheus::start("global: {scrape_interval: 1s}\n");
    let (status, body) = bed::get(server.port, "/api/v1/query?query=1%2B1").unwrap();
    assert_eq!(status, 200);
    assert!(body.contains("\"2\""), "{body}");
    let port = server.port;
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "prometheus outlived its guard");
}

#[test]
fn alertmanager_answers_and_ends() {
    bed::require!("prometheus-alertmanager");
    let server = bed::Alertmanager::start("route: {receiver: none}\nreceivers: [{name: none}]\n");
    let (status, body) = bed::get(server.port, "/api/v2/alerts").unwrap();
    assert_eq!((status, body.trim()), (200, "[]"));
    let port = server.port;
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "alertmanager outlived its guard");
}

#[test]
fn registry_is_empty_at_first() {
    bed::require!("docker-registry");
    let server = bed::Registry::start();
    let (status, body) = bed::get(server.port, "/v2/_catalog").unwrap();
    assert_eq!((status, body.trim()), (200, "{\"repositories\":[]}"));
}

#[test]
#[should_panic(expected = "ended at once")]
fn a_server_that_cannot_start_is_named() {
    let Some(tool) = bed::tool("false") else { panic!("ended at once: there is no `false`") };
    bed::Server::start("false", &tool, bed::free_port(), "/", |_, _| Ok(()));
}
