//! Tests of the Prometheus client.

use proptest::prelude::*;

use super::promql::spellings;
use super::*;
use crate::core::judge::signal::MatchOp;
use crate::core::judge::signal::Matcher;
use crate::world::series::number;

fn rendered(metric: &str, matchers: &[(&str, MatchOp, &str)], releases: &[&str]) -> String {
    let matchers = matchers.iter().map(|(label, op, value)| Matcher { label: (*label).into(), op: *op, value: (*value).into() }).collect();
    let matchers: Vec<Matcher> = matchers;
    let releases = releases.iter().map(|id| (*id).to_owned()).collect();
    let fixed = promql::matchers(&matchers.iter().collect::<Vec<_>>());
    promql::range_selector(metric, &fixed, &BTreeMap::new(), ("release", &releases), 5000)
}

#[test]
fn selectors_are_rendered_as_promql() {
    assert_eq!(rendered("up", &[], &["b", "a", "b"]), r#"up{release=~"a|b"}[5000ms]"#);
    assert_eq!(
        rendered("job:x:sum", &[("code", MatchOp::NotRegex, "5..|4\"\\"), ("my.label", MatchOp::NotEqual, "a\nb")], &["v1.2+3"]),
        r#"job:x:sum{code!~"5..|4\"\\","my.label"!="a\nb",release="v1.2+3"}[5000ms]"#
    );
    assert_eq!(rendered("my.metric", &[], &["a"]), r#"{__name__="my.metric",release="a"}[5000ms]"#);
    assert_eq!(rendered("d_bucket", &[("le", MatchOp::Equal, "1")], &["a"]), r#"d_bucket{le=~"1|1\\.0|1e\\+00",release="a"}[5000ms]"#);
}

#[test]
fn values_of_many_looks_are_united() {
    let values =
        BTreeMap::from([("job".to_owned(), ["a.b", "c"].map(str::to_owned).into()), ("ns".to_owned(), ["x.y"].map(str::to_owned).into())]);
    let releases = ["r1", "r2"].map(str::to_owned).into();
    assert_eq!(
        promql::range_selector("up", "code=~\"5..\"", &values, ("release", &releases), 1),
        r#"up{code=~"5..",job=~"a\\.b|c",ns="x.y",release=~"r1|r2"}[1ms]"#
    );
}

#[test]
fn a_bound_is_found_however_it_is_written() {
    for (written, forms) in [
        ("0.3", &["0.3"][..]),
        ("2.50", &["2.5", "2.50"]),
        ("10", &["10", "10.0"]),
        ("1000000", &["1e+06", "1000000.0", "1000000"]),
        ("0.00001", &["1e-05", "0.00001"]),
        ("Inf", &["+Inf", "Inf"]),
    ] {
        let regex = regex::Regex::new(&format!("^(?:{})$", spellings(written, number(written).unwrap()))).unwrap();
        assert!(forms.iter().all(|form| regex.is_match(form)), "{written}: {regex}");
        assert!(!regex.is_match("0x3") && !regex.is_match("100"), "{regex}");
    }
}

#[test]
fn unusable_settings_are_refused() {
    let good = spec::Prometheus {
        url: "http://127.0.0.1:9090".into(),
        scrape_interval: crate::core::time::Span::seconds(15),
        auth: None,
        headers: BTreeMap::new(),
        timeout: None,
        queries_per_second: 50,
        concurrency: 8,
    };
    let prometheus = Prometheus::new(&good).unwrap();
    assert_eq!(prometheus.timeout, LONGEST, "at most 10 s");
    assert_eq!(prometheus.query_url.as_str(), "http://127.0.0.1:9090/api/v1/query");
    let refused = |change: fn(&mut spec::Prometheus)| {
        let mut spec = good.clone();
        change(&mut spec);
        Prometheus::new(&spec).unwrap_err()
    };
    assert!(refused(|spec| spec.url = "localhost".into()).contains("URL"));
    assert!(refused(|spec| spec.url = "file:///etc/passwd".into()).contains("http"));
    assert!(refused(|spec| spec.concurrency = 0).contains("at least 1"));
    assert!(refused(|spec| spec.scrape_interval = crate::core::time::Span::default()).contains("scrapeInterval"));
    assert!(refused(|spec| drop(spec.headers.insert("a b".into(), "c".into()))).contains("`a b`"));
}

#[test]
fn looks_begin_where_the_last_one_ended() {
    let prometheus = Prometheus::new(&spec::Prometheus {
        url: "http://127.0.0.1:9090".into(),
        scrape_interval: crate::core::time::Span::seconds(1),
        auth: None,
        headers: BTreeMap::new(),
        timeout: None,
        queries_per_second: 50,
        concurrency: 8,
    })
    .unwrap();
    let now = 1_700_000_000_000;
    assert_eq!(prometheus.since(None, now), Ok(now - 5_000));
    assert_eq!(prometheus.since(Some(now - 1), now), Ok(now - 1));
    assert_eq!(prometheus.since(Some(now + 900), now), Ok(now + 900), "a little ahead: nothing new yet");
    assert_eq!(prometheus.since(Some(0), now), Ok(now - 2_500_000), "bounded");
    assert!(matches!(prometheus.since(Some(now + 2_000), now), Err(LookFault::Invalid(_))));
}

/// JSON near the API's shape, so that mutations get past the parser.
fn near_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"status\"",
        "\"success\"",
        "\"error\"",
        "\"data\"",
        "\"resultType\"",
        "\"matrix\"",
        "\"result\"",
        "\"metric\"",
        "\"values\"",
        "1e999",
        "-1",
        "\"NaN\"",
        "null",
        "\"warnings\"",
        "\"1\"",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in near_json()) {
        let _ = answer::data(&bytes);
        let _ = answer::error_text(&bytes);
        let _ = answer::data(text.as_bytes()).and_then(answer::matrix);
    }

    #[test]
    fn no_values_panic(seconds in any::<f64>(), text in "\\PC{0,8}|-?[0-9]{1,400}|NaN|[+-]?Inf") {
        let json = serde_json::json!({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[seconds, text]]}]}});
        let rows = answer::data(json.to_string().as_bytes()).and_then(answer::matrix);
        for sample in rows.into_iter().flatten().filter_map(|row| row.samples().ok()).flatten() {
            prop_assert!(sample.value.is_finite() && sample.value >= 0.0);
        }
    }

    #[test]
    fn what_is_sent_is_what_comes_back(samples in prop::collection::vec((1..2000_i64, 0.0..1e15_f64), 0..20)) {
        let mut at = 1_700_000_000_000;
        let samples: Vec<Sample> = samples.into_iter().map(|(step, value)| { at += step; Sample { at, value } }).collect();
        #[allow(clippy::cast_precision_loss)]
        let values: Vec<_> = samples.iter().map(|sample| (sample.at as f64 / 1000.0, sample.value.to_string())).collect();
        let json = serde_json::json!({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"a": "b"}, "values": values}]}});
        let rows = answer::data(json.to_string().as_bytes()).and_then(answer::matrix).unwrap();
        prop_assert_eq!(rows[0].samples().unwrap(), samples);
    }
}
