//! The host with real children: traffic, bad days, and its own death.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod host_bed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstop::core::input::Outcome;
use backstop::core::time::Span;
use backstop::core::work::{Action, Fence};
use host_bed::{Bed, Caller, lives, until, weights};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_split_exactly_and_counted() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("ERROR_RATIO", "0.5")]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    let born = format!("release=\"{}\"", candidate.id);
    assert!(bed.client.metrics().await.unwrap().contains(&format!("{born},code=\"500\",class=\"5xx\"}} 0")));

    let mut caller = Caller::new(bed.address().await);
    for _ in 0..100 {
        assert_eq!(caller.get("/").await.unwrap(), (200, stable.id.to_string()));
    }
    let split = weights(&[(&stable, 95.0), (&candidate, 5.0)]);
    assert!(bed.done(split.clone()).await.0);
    assert!(!bed.done(split).await.0);
    let mut to_candidate = 0;
    for _ in 0..400 {
        to_candidate += usize::from(caller.get("/").await.unwrap().1 == *candidate.id.0);
    }
    assert_eq!(to_candidate, 20);
    assert!((bed.metric("backstop_host_requests_total", &[&born, "code=\"500\""]).await - 10.0).abs() < 0.1);
    assert!((bed.metric("backstop_host_request_duration_seconds_count", &[&born]).await - 20.0).abs() < 0.1);
    assert!((bed.metric("backstop_host_requests_total", &[]).await - 500.0).abs() < 0.1);

    // Over TCP, too.
    let mut tcp = Caller::new(bed.view().await.metrics);
    assert_eq!(tcp.get("/metrics").await.unwrap().0, 200);
    assert_eq!(tcp.get("/v1/workloads").await.unwrap().0, 404);

    // The arm leaves, with its processes and its series.
    bed.done(weights(&[(&stable, 100.0)])).await;
    let pid = bed.view().await.members.iter().find(|member| member.release == candidate.id).unwrap().pid.unwrap();
    bed.done(Action::EnsureArm { release: candidate.clone(), present: false }).await;
    until("the arm is gone", async || !bed.view().await.observed.arms.contains_key(&candidate.id)).await;
    assert!(!lives(pid));
    assert!(!bed.client.metrics().await.unwrap().contains(&born));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_in_two_hundred_switches_under_load() {
    let mut bed = Bed::start().await;
    let (one, two) = (bed.release(&[]), bed.release(&[("DELAY_MS", "3")]));
    bed.deploy(&one).await;
    bed.arm(&two).await;
    let address = bed.address().await;
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (over, sent) = (over.clone(), sent.clone());
            tokio::spawn(async move {
                let mut caller = Caller::new(address);
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(caller.get("/").await.unwrap().0, 200);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut caller = Caller::new(address);
    let mut waits = Vec::new();
    for turn in 0..200 {
        let target = if turn % 2 == 0 { &two } else { &one };
        let start = Instant::now();
        assert!(bed.done(weights(&[(target, 100.0)])).await.0);
        waits.push(start.elapsed());
        // Not one new request goes elsewhere once the switch was answered.
        for _ in 0..3 {
            assert_eq!(caller.get("/").await.unwrap(), (200, target.id.to_string()));
        }
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    waits.sort();
    println!("200 switches under {} requests: median {:?}, p99 {:?}", sent.load(Ordering::Relaxed), waits[100], waits[197]);
    assert!(sent.load(Ordering::Relaxed) > 1000);
    assert!(bed.metric("backstop_host_dropped_total", &[]).await < 0.5);
    assert!(bed.metric("backstop_host_requests_total", &["class=\"5xx\""]).await < 0.5);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_what_was_left_ends_at_once_on_a_busy_machine() {
    let mut bed = Bed::start().await;
    let (one, two) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&one).await;
    let address = bed.address().await;
    let over = Arc::new(AtomicBool::new(false));
    // More threads than cores, so that every thread loses the processor between any two steps.
    let spinners: Vec<_> = (0..6)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {})
        })
        .collect();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            tokio::spawn(async move {
                let (mut caller, mut codes) = (Caller::new(address), Vec::new());
                while !over.load(Ordering::Relaxed) {
                    codes.push(caller.get("/").await.unwrap().0);
                }
                codes
            })
        })
        .collect();
    for turn in 0..20 {
        let (from, to) = if turn % 2 == 0 { (&one, &two) } else { (&two, &one) };
        bed.arm(to).await;
        bed.done(weights(&[(to, 100.0)])).await;
        bed.done(Action::EnsureRelease { release: to.clone() }).await;
        bed.done(Action::EnsureArm { release: from.clone(), present: false }).await;
        until("it is gone", async || !bed.view().await.observed.arms.contains_key(&from.id)).await;
    }
    over.store(true, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().unwrap();
    }
    for worker in workers {
        let codes = worker.await.unwrap();
        assert!(
            codes.len() > 20 && codes.iter().all(|code| *code == 200),
            "{} of {} lost",
            codes.iter().filter(|code| **code != 200).count(),
            codes.len()
        );
    }
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_move_to_a_release_that_nobody_of_can_answer() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&stable).await;
    let mut caller = Caller::new(bed.address().await);
    // Wanted in one breath, as by somebody who saw members that are gone by now.
    bed.done(Action::EnsureArm { release: candidate.clone(), present: true }).await;
    for fence in [Fence::Generation(1), Fence::Stable(candidate.id.clone())] {
        let early = bed.ensure_as(50, fence, weights(&[(&candidate, 100.0)])).await;
        match early {
            Outcome::Transient { what, .. } => assert!(what.contains("no member that can serve yet"), "{what}"),
            // Whoever is quick enough to be ready may have them.
            Outcome::Done { .. } => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(caller.get("/").await.unwrap().0, 200);
    }
    bed.ready(&candidate).await;
    let moved = bed.ensure_as(51, Fence::Stable(candidate.id.clone()), weights(&[(&candidate, 100.0)])).await;
    assert!(matches!(moved, Outcome::Done { .. }), "{moved:?}");
    assert_eq!(caller.get("/").await.unwrap(), (200, candidate.id.to_string()));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_child_costs_at_most_what_it_was_working_on() {
    let mut bed = Bed::start_with(|_, process| process.instances = 2).await;
    let release = bed.release(&[("DELAY_MS", "2")]);
    bed.deploy(&release).await;
    let address = bed.address().await;
    let (over, failed, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (over, failed, sent) = (over.clone(), failed.clone(), sent.clone());
            tokio::spawn(async move {
                let mut caller = Caller::new(address);
                while !over.load(Ordering::Relaxed) {
                    let code = caller.get("/").await.unwrap().0;
                    assert!(code == 200 || code == 502, "{code}");
                    failed.fetch_add(u64::from(code != 200), Ordering::Relaxed);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let pid = bed.view().await.members[0].pid.unwrap();
        kill(pid, "KILL");
        until("the child is replaced", async || bed.view().await.members[0].pid.is_some_and(|new| new != pid)).await;
        bed.ready(&release).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let (failed, sent) = (failed.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
    println!("3 kills under {sent} requests: {failed} failed");
    assert!(failed <= 3 * 4, "{failed} of {sent}");
    assert!((bed.metric("backstop_host_requests_total", &["code=\"502\""]).await - f64::from(u32::try_from(failed).unwrap())).abs() < 0.1);
    assert!((bed.metric("backstop_host_restarts_total", &[]).await - 3.0).abs() < 0.1);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_finish_or_are_cut_after_the_drain() {
    for (drain, code, dropped) in [(5_000, 200, 0.0), (200, 503, 1.0)] {
        let mut bed = Bed::start_with(|_, process| process.drain = Span(Duration::from_millis(drain))).await;
        let (slow, fast) = (bed.release(&[("DELAY_MS", "1000")]), bed.release(&[]));
        bed.deploy(&slow).await;
        bed.arm(&fast).await;
        let address = bed.address().await;
        let under_way = tokio::spawn(async move { Caller::new(address).get("/").await });
        until("it is under way", async || bed.metric("backstop_host_inflight", &[]).await > 0.5).await;
        bed.done(weights(&[(&fast, 100.0)])).await;
        assert_eq!(Caller::new(address).get("/").await.unwrap(), (200, fast.id.to_string()));
        assert_eq!(under_way.await.unwrap().unwrap(), (code, slow.id.to_string()));
        assert!((bed.metric("backstop_host_dropped_total", &[]).await - dropped).abs() < 0.1);
        bed.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_services_are_named_and_never_hurt_the_stable_one() {
    let mut bed = Bed::start_with(|config, process| {
        process.health.start_within = Span::seconds(1);
        config.log_bytes = 64 << 10;
    })
    .await;
    let stable = bed.release(&[]);
    bed.deploy(&stable).await;
    let address = bed.address().await;
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("FAIL_HEALTH", "1")], "never ready: GET /healthz answered 503"),
        (&[("ERROR_RATIO", "broken")], "crash loop: exited with status 1, 3 times in"),
        (&[("EXIT_AFTER", "300")], "crash loop: exited with status 1, 3 times in"),
        (&[("HANG", "1")], "unhealthy: GET /healthz gave no answer within 500ms, 6 times in a row"),
    ];
    for (env, expected) in cases {
        let bad = bed.release(env);
        bed.done(Action::EnsureArm { release: bad.clone(), present: true }).await;
        if env[0].0 == "HANG" {
            bed.ready(&bad).await;
            bed.done(weights(&[(&stable, 50.0), (&bad, 50.0)])).await;
            let hung = tokio::spawn(async move { Caller::new(address).get("/").await });
            until("it hangs", async || bed.metric("backstop_host_inflight", &[&bad.id.0]).await > 0.5 || hung.is_finished()).await;
            _ = Caller::new(address).get("/none").await;
            _ = hung.await;
        }
        let why = bed.failing(&bad).await;
        assert!(why.contains(expected), "{env:?}: {why}");
        if env[0].1 == "broken" {
            assert!(why.contains("last output: service: ERROR_RATIO=broken: expected a share"), "{why}");
        }
        bed.done(weights(&[(&stable, 100.0)])).await;
        bed.done(Action::EnsureArm { release: bad.clone(), present: false }).await;
        assert_eq!(Caller::new(address).get("/").await.unwrap(), (200, stable.id.to_string()));
    }
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ignores_sigterm_and_fills_its_log_is_contained() {
    let mut bed = Bed::start_with(|config, _| config.log_bytes = 64 << 10).await;
    let (stable, bad) = (bed.release(&[]), bed.release(&[("IGNORE_TERM", "1"), ("CHATTY", "16")]));
    bed.deploy(&stable).await;
    bed.arm(&bad).await;
    let member = bed.view().await.members.into_iter().find(|member| member.release == bad.id).unwrap();
    let older = std::path::Path::new(&member.log).with_extension("log.1");
    until("the log was rotated", async || older.exists()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // 1.6 MB/s, looked at four times a second, with room for a slow machine.
    assert!(std::fs::metadata(&member.log).unwrap().len() < 2 << 20);
    assert!(std::fs::metadata(&older).unwrap().len() <= 64 << 10);
    let start = Instant::now();
    bed.done(Action::EnsureArm { release: bad.clone(), present: false }).await;
    until("it is killed", async || !lives(member.pid.unwrap())).await;
    assert!(start.elapsed() >= Duration::from_millis(450) && start.elapsed() < Duration::from_secs(5));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_leads_traffic_back_where_neither_controller_nor_store_is_there() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    let (forward, back) = (weights(&[(&stable, 75.0), (&candidate, 25.0)]), weights(&[(&stable, 100.0)]));
    // A revert has told the host before what is stable.
    assert!(matches!(bed.ensure_as(20, Fence::Stable(stable.id.clone()), back).await, Outcome::Done { .. }));
    assert!(matches!(bed.ensure_as(21, Fence::Generation(2), forward).await, Outcome::Done { changed: true, .. }));
    // Where the command line looks for the host.
    let data = bed.folder.path().join("controller");
    std::fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::symlink(bed.folder.path().join("data"), data.join("host")).unwrap();
    let revert = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_backstop"));
        let output = command.args(["revert", "checkout", "--yes"]).args(arguments).arg("--data-dir").arg(&data).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, _, err) = revert(&[]).await;
    assert!(code == Some(4) && err.contains("--traffic-only"), "{code:?}: {err}");
    let (code, out, err) = revert(&["--traffic-only", "--json"]).await;
    assert!(code == Some(6) && err.contains("on the host alone"), "{code:?}: {out}{err}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["rollout"], "shop/checkout");
    let view = bed.client.view(host_bed::NAMESPACE, host_bed::NAME).await.unwrap().unwrap();
    assert_eq!(view.observed.weights.get(&stable.id), Some(&backstop::core::spec::Percent::FULL));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_writers_and_held_releases_are_refused() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    let forward = weights(&[(&stable, 75.0), (&candidate, 25.0)]);
    let back = weights(&[(&stable, 100.0)]);
    assert!(matches!(bed.ensure_as(20, Fence::Generation(2), forward.clone()).await, Outcome::Done { changed: true, .. }));
    assert!(matches!(bed.ensure_as(21, Fence::Generation(1), back.clone()).await, Outcome::Superseded(_)));
    assert!(matches!(bed.ensure_as(21, Fence::Stable(stable.id.clone()), back.clone()).await, Outcome::Done { changed: true, .. }));
    assert!(matches!(bed.ensure_as(20, Fence::Generation(2), forward.clone()).await, Outcome::Superseded(_)));
    assert!(matches!(bed.ensure_as(21, Fence::Stable(stable.id.clone()), back).await, Outcome::Done { changed: false, .. }));
    // A person, with nothing but the host.
    assert!(matches!(bed.ensure_as(22, Fence::Generation(2), forward.clone()).await, Outcome::Done { changed: true, .. }));
    assert!(matches!(bed.client.traffic_to_stable(host_bed::NAMESPACE, host_bed::NAME).await, Outcome::Done { changed: true, .. }));
    assert!(matches!(bed.client.traffic_to_stable(host_bed::NAMESPACE, "other").await, Outcome::Invalid(_)));
    assert!(matches!(bed.ensure_as(22, Fence::Generation(2), forward.clone()).await, Outcome::Superseded(_)));
    let hold = Action::EnsureHold { quarantined: vec![candidate.id.clone()] };
    assert!(matches!(bed.ensure_as(22, Fence::Generation(2), hold).await, Outcome::Done { changed: true, .. }));
    assert!(matches!(bed.ensure_as(23, Fence::Generation(2), forward).await, Outcome::Denied(_)));
    assert!(matches!(bed.ensure_as(24, Fence::None, Action::Record).await, Outcome::Invalid(_)));
    let view = bed.view().await;
    assert_eq!((view.fences.generation, view.fences.stable), (2, Some(stable.id.clone())));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_is_said_and_used_once_it_is_free() {
    let squatter = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = squatter.local_addr().unwrap();
    let mut bed = Bed::start_with(|_, process| process.listen = address.to_string()).await;
    let release = bed.release(&[]);
    bed.deploy(&release).await;
    until("it is said", async || bed.view().await.listen_fault.is_some_and(|why| why.contains("in use"))).await;
    drop(squatter);
    assert_eq!(bed.address().await, address);
    assert_eq!(Caller::new(address).get("/").await.unwrap().0, 200);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_state_file_costs_its_own_workload_only() {
    let mut damaged = std::path::PathBuf::new();
    let mut bed = Bed::start_with(|config, _| {
        damaged = config.data_dir.join("workloads/shop/other.json");
        std::fs::create_dir_all(damaged.parent().unwrap()).unwrap();
        std::fs::write(&damaged, b"{\"version\": 1, \"names").unwrap();
    })
    .await;
    let release = bed.release(&[]);
    bed.deploy(&release).await;
    assert_eq!(bed.client.workloads().await.unwrap(), ["shop/checkout"]);
    assert!(!damaged.exists() && damaged.with_extension("damaged").exists());
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_leaves_its_children_to_the_next_one() {
    let mut bed = Bed::new();
    let data = bed.config().data_dir;
    let start = || std::process::Command::new(host_bed::example("host")).arg(&data).spawn().unwrap();
    let mut host = start();
    bed.defined().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    bed.done(weights(&[(&stable, 75.0), (&candidate, 25.0)])).await;
    let address = bed.address().await;
    assert_eq!(Caller::new(address).get("/").await.unwrap().0, 200);
    let before = bed.view().await;
    let pids = |view: &backstop::host::wire::View| view.members.iter().filter_map(|member| member.pid).collect::<Vec<_>>();

    host.kill().unwrap();
    host.wait().unwrap();
    assert!(pids(&before).into_iter().all(lives));
    let killed = Instant::now();
    let mut host = start();
    until("the proxy answers again", async || Caller::new(address).get("/").await.is_ok_and(|(code, _)| code == 200)).await;
    println!("requests are answered {:?} after the start of the next host", killed.elapsed());
    bed.ready(&stable).await;
    bed.ready(&candidate).await;
    let after = bed.view().await;
    assert_eq!((pids(&after), after.listen, after.metrics), (pids(&before), before.listen, before.metrics));
    assert_eq!((after.observed.weights, after.observed.current), (before.observed.weights, before.observed.current));

    // A second host in the same folder is refused and harms nothing.
    assert!(
        !std::process::Command::new(host_bed::example("host")).arg(&data).stderr(std::process::Stdio::null()).status().unwrap().success()
    );
    assert_eq!(Caller::new(address).get("/").await.unwrap().0, 200);

    // A child that died while no host watched is started again; one that is not wanted any more is ended.
    let dead = after.members.iter().find(|member| member.release == stable.id).unwrap().pid.unwrap();
    let other = after.members.iter().find(|member| member.release == candidate.id).unwrap().pid.unwrap();
    host.kill().unwrap();
    host.wait().unwrap();
    kill(dead, "KILL");
    std::fs::remove_file(data.join("workloads/shop/checkout.json")).unwrap();
    let mut host = start();
    bed.defined().await;
    until("the stray is ended", async || !lives(other)).await;
    bed.deploy(&stable).await;
    let last = pids(&bed.view().await);
    kill(host.id(), "TERM");
    assert!(host.wait().unwrap().success());
    assert!(last.into_iter().all(|pid| !lives(pid)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_weight_gets_nothing_even_if_the_other_is_down() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[("EXIT_AFTER", "400")]), bed.release(&[]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    let mut caller = Caller::new(bed.address().await);
    let (start, mut refused) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(3) && refused < 50 {
        let (code, release) = caller.get("/").await.unwrap();
        assert_eq!(release, *stable.id.0);
        refused += usize::from(code == 503);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(refused > 0);
    // With a share, however small, it takes over what the other cannot serve.
    bed.done(weights(&[(&stable, 99.0), (&candidate, 1.0)])).await;
    bed.failing(&stable).await;
    until("the candidate serves", async || caller.get("/").await.unwrap() == (200, candidate.id.to_string())).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_does_not_stop_traffic_toward_the_stable_release() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    bed.done(weights(&[(&candidate, 100.0)])).await;
    let mut caller = Caller::new(bed.address().await);
    // A file where the folder was: nothing can be written.
    let (folder, aside) = (bed.config().data_dir.join("workloads/shop"), bed.folder.path().join("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, b"").unwrap();

    let forward = bed.ensure(weights(&[(&stable, 50.0), (&candidate, 50.0)])).await;
    assert!(matches!(&forward, Outcome::Transient { what, .. } if what.contains("state file")), "{forward:?}");
    assert_eq!(caller.get("/").await.unwrap().1, *candidate.id.0);
    let back = weights(&[(&stable, 100.0)]);
    let safe = bed.ensure_as(90, Fence::Stable(stable.id.clone()), back.clone()).await;
    assert!(matches!(safe, Outcome::Transient { .. }), "{safe:?}");
    assert_eq!(caller.get("/").await.unwrap().1, *stable.id.0);

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    let again = bed.ensure_as(90, Fence::Stable(stable.id.clone()), back).await;
    assert!(matches!(again, Outcome::Done { changed: false, .. }), "{again:?}");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("checkout.json")).unwrap()).unwrap();
    assert_eq!(file["weights"], serde_json::json!({ stable.id.to_string(): "100%" }));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_streamed_and_a_removed_workload_is_gone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut bed = Bed::start().await;
    let release = bed.release(&[]);
    bed.deploy(&release).await;
    let address = bed.address().await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let size = 5 << 20;
    stream
        .write_all(format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream.write_all(&vec![b'x'; size]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("hello {size}\n")), "{answer}");
    assert!(answer.contains(&format!("x-backstop-release: {}\r\n", release.id)), "{answer}");

    let pid = bed.view().await.members[0].pid.unwrap();
    assert!(bed.client.forget(host_bed::NAMESPACE, host_bed::NAME).await.unwrap());
    assert!(!bed.client.forget(host_bed::NAMESPACE, host_bed::NAME).await.unwrap());
    assert!(!lives(pid) && bed.client.workloads().await.unwrap().is_empty());
    assert!(Caller::new(address).get("/").await.is_err());
    assert!(!bed.config().data_dir.join("workloads/shop/checkout.json").exists());
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_off_or_stalls_is_no_failure_of_the_release() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut bed = Bed::start_with(|config, _| config.upstream_timeout = Duration::from_millis(800)).await;
    let (release, slow) = (bed.release(&[]), bed.release(&[("DELAY_MS", "2000")]));
    bed.deploy(&release).await;
    bed.arm(&slow).await;
    let address = bed.address().await;
    let send = async |head: &str, pieces: &[&str]| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        for piece in pieces {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream.write_all(piece.as_bytes()).await.unwrap();
        }
        stream
    };
    let answer = async |mut stream: tokio::net::TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let counted = async |code: u16| bed.metric("backstop_host_requests_total", &[&format!("code=\"{code}\"")]).await;

    for (number, pieces) in [(1.0, &["abc"][..]), (2.0, &[])] {
        drop(send("content-length: 1000", pieces).await);
        until("it is counted", async || counted(499).await > number - 0.5).await;
    }
    drop(send("transfer-encoding: chunked", &["3\r\nabc\r\n"]).await);
    until("it is counted", async || counted(499).await > 2.5).await;
    let nonsense = send("transfer-encoding: chunked", &["3\r\nabc\r\n", "no number\r\n"]).await;
    until("it is counted", async || counted(400).await > 0.5).await;
    drop(nonsense);
    let stalled = answer(send("content-length: 1000", &["abc"]).await).await;
    assert!(stalled.starts_with("HTTP/1.1 408 "), "{stalled}");
    assert!((counted(408).await - 1.0).abs() < 0.1);
    // The time of the service begins when it has the whole request.
    let patient = answer(send("content-length: 12", &["abc", "def", "ghi", "jkl"]).await).await;
    assert!(patient.starts_with("HTTP/1.1 200 ") && patient.ends_with("hello 12\n"), "{patient}");
    assert!(bed.metric("backstop_host_requests_total", &["class=\"5xx\""]).await < 0.5);
    assert!((counted(499).await - 3.0).abs() < 0.1);

    bed.done(weights(&[(&slow, 100.0)])).await;
    let late = answer(send("content-length: 3", &["abc"]).await).await;
    assert!(late.starts_with("HTTP/1.1 504 "), "{late}");
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_never_ready_is_said_so_however_often_it_was_asked() {
    let mut bed = Bed::start_with(|_, process| {
        process.health.every = Span(Duration::from_millis(10));
        process.health.start_within = Span::seconds(4);
    })
    .await;
    let bad = bed.release(&[("FAIL_HEALTH", "1")]);
    bed.done(Action::EnsureArm { release: bad.clone(), present: true }).await;
    until("it was started", async || bed.view().await.members.first().is_some_and(|member| member.pid.is_some())).await;
    let first = bed.view().await.members[0].pid.unwrap();
    let why = bed.failing(&bad).await;
    assert!(why.starts_with("never ready: GET /healthz answered 503"), "{why}");
    until("it is started again", async || bed.view().await.members[0].pid.is_some_and(|pid| pid != first)).await;
    assert!(!lives(first));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_forgot_its_metrics_port_runs() {
    for damage in [(|path| std::fs::write(path, b"")) as fn(&std::path::Path) -> std::io::Result<()>, |path| std::fs::create_dir(path)] {
        let mut bed = Bed::start_with(|config, _| {
            std::fs::create_dir_all(&config.data_dir).unwrap();
            damage(&config.data_dir.join("host.json")).unwrap();
        })
        .await;
        let release = bed.release(&[]);
        bed.deploy(&release).await;
        assert_eq!(Caller::new(bed.view().await.metrics).get("/metrics").await.unwrap().0, 200);
        bed.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpacked_artifacts_do_not_gather_while_the_host_runs() {
    let mut bed = Bed::start().await;
    let (stable, candidate) = (bed.release(&[]), bed.release(&[("GREETING", "hi")]));
    bed.deploy(&stable).await;
    bed.arm(&candidate).await;
    let unpacked = bed.config().data_dir.join("unpacked/sha256");
    for number in 0..20 {
        std::fs::create_dir(unpacked.join(format!("{number:064}"))).unwrap();
    }
    let left = || std::fs::read_dir(&unpacked).unwrap().count();
    assert_eq!(left(), 21);
    bed.done(Action::EnsureArm { release: candidate.clone(), present: false }).await;
    until("the oldest are gone", async || left() == 17).await;
    assert_eq!(Caller::new(bed.address().await).get("/").await.unwrap().0, 200);
    bed.end().await;
}

/// Prints what the proxy costs; the bound is wide, because the machine is shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_costs_little() {
    let mut bed = Bed::start().await;
    let release = bed.release(&[]);
    bed.deploy(&release).await;
    let direct = (std::net::Ipv4Addr::LOCALHOST, bed.view().await.members[0].port.unwrap()).into();
    let mut rates = Vec::new();
    for address in [direct, bed.address().await] {
        let start = Instant::now();
        let workers = (0..8).map(|_| {
            tokio::spawn(async move {
                let mut caller = Caller::new(address);
                for _ in 0..500 {
                    assert_eq!(caller.get("/").await.unwrap().0, 200);
                }
            })
        });
        futures::future::try_join_all(workers).await.unwrap();
        rates.push(4000.0 / start.elapsed().as_secs_f64());
    }
    println!("requests per second: {:.0} direct, {:.0} through the proxy", rates[0], rates[1]);
    assert!(rates[1] > 200.0, "{rates:?}");
    bed.end().await;
}

fn kill(pid: u32, signal: &str) {
    assert!(std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap().success());
}
