//! Sources and flag targets.

use std::net::IpAddr;

use reqwest::Url;

use super::Sheet;
use crate::core::spec::{Auth, FlagTarget, GuardSource, Prometheus, Scrape};
use crate::core::time::Span;
use crate::spec::code;
use crate::spec::finding::Finding;

/// Most endpoints of one source.
const MOST_URLS: usize = 64;

pub(super) fn check_source(sheet: &mut Sheet<'_>, source: &GuardSource) {
    match (&source.prometheus, &source.scrape) {
        (Some(prometheus), None) => check_prometheus(sheet, prometheus),
        (None, Some(scrape)) => check_scrape(sheet, scrape),
        (None, None) => sheet.push("/spec", Finding::error(code::EXACTLY_ONE, "a source of nothing").expected("`prometheus` or `scrape`")),
        (Some(_), Some(_)) => {
            let finding = Finding::error(code::EXACTLY_ONE, "`prometheus` and `scrape` at once").fix("make it two sources");
            sheet.push_key("/spec/scrape", finding);
        }
    }
    if sheet.at.key == crate::spec::references::HOST {
        let finding =
            Finding::error(code::DUPLICATE_NAME, "`host` is the host's own proxy counters, and always there").fix("choose another name");
        sheet.push("/metadata/name", finding);
    }
}

fn check_prometheus(sheet: &mut Sheet<'_>, prometheus: &Prometheus) {
    const BASE: &str = "/spec/prometheus";
    check_url(sheet, &format!("{BASE}/url"), &prometheus.url, prometheus.auth.is_some() || !prometheus.headers.is_empty());
    check_interval(sheet, &format!("{BASE}/scrapeInterval"), prometheus.scrape_interval);
    for (field, value) in [("queriesPerSecond", prometheus.queries_per_second), ("concurrency", prometheus.concurrency)] {
        if value == 0 {
            sheet.push(&format!("{BASE}/{field}"), Finding::error(code::LIMIT, "nothing could be asked").expected("at least 1"));
        }
    }
    if prometheus.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
        sheet.push(&format!("{BASE}/timeout"), Finding::error(code::LIMIT, "nothing answers in no time").expected("more than 0"));
    }
    for name in prometheus.headers.keys() {
        let pointer = format!("{BASE}/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let secret =
            ["authorization", "cookie", "token", "secret", "password", "key"].iter().any(|word| name.to_lowercase().contains(word));
        if secret {
            let finding = Finding::error(
                code::CREDENTIALS,
                format!("the header `{name}` looks like a credential, and a specification is no place for one"),
            );
            sheet
                .push_key(&pointer, finding.fix("use `auth: {bearer: {tokenFile: …}}` or `auth: {basic: {username: …, passwordFile: …}}`"));
        } else if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
            sheet.push_key(&pointer, Finding::error(code::BAD_NAME, "not the name of a header"));
        }
    }
    if let Some(auth) = &prometheus.auth {
        check_auth(sheet, BASE, auth);
    }
}

fn check_scrape(sheet: &mut Sheet<'_>, scrape: &Scrape) {
    const BASE: &str = "/spec/scrape";
    if let Some(pods) = &scrape.pods {
        if !scrape.urls.is_empty() {
            let finding = Finding::error(code::EXACTLY_ONE, "`urls` and `pods` at once").fix("make it two sources");
            sheet.push_key(&format!("{BASE}/pods"), finding);
        }
        if pods.port == 0 {
            sheet.push(&format!("{BASE}/pods/port"), Finding::error(code::LIMIT, "no port of a pod").expected("1 to 65535"));
        }
        if !pods.path.starts_with('/') || pods.path.contains(char::is_whitespace) {
            let finding = Finding::error(code::URL, "not a path of an address").expected("a path such as `/metrics`");
            sheet.push(&format!("{BASE}/pods/path"), finding);
        }
    } else if scrape.urls.is_empty() || scrape.urls.len() > MOST_URLS {
        sheet.push(
            &format!("{BASE}/urls"),
            Finding::error(code::LIMIT, "nothing, or too much, to scrape").expected(format!("1 to {MOST_URLS} URLs")),
        );
    }
    for (index, url) in scrape.urls.iter().enumerate() {
        let pointer = format!("{BASE}/urls/{index}");
        check_url(sheet, &pointer, url, scrape.auth.is_some());
        if scrape.urls[..index].contains(url) {
            sheet.push(&pointer, Finding::error(code::TWICE, "this URL is here twice: its series would count twice").fix("leave one out"));
        }
    }
    check_interval(sheet, &format!("{BASE}/every"), scrape.every);
    if let Some(auth) = &scrape.auth {
        check_auth(sheet, BASE, auth);
    }
}

fn check_interval(sheet: &mut Sheet<'_>, pointer: &str, interval: Span) {
    if interval.millis() < 100 || interval > Span::minutes(5) {
        sheet.push(pointer, Finding::error(code::LIMIT, "not an interval that a rollout can be judged by").expected("100ms to 5m"));
    } else if interval > Span::minutes(1) {
        let message = format!("a breach is seen after 3 scrapes at the soonest: {}", interval.times(3));
        sheet.push(pointer, Finding::warning(code::TOO_SHORT, message).fix("scrape what is rolled out every 15s or faster"));
    }
}

fn check_auth(sheet: &mut Sheet<'_>, base: &str, auth: &Auth) {
    let (field, file) = match auth {
        Auth::Bearer { token_file } => ("bearer/tokenFile", token_file),
        Auth::Basic { password_file, .. } => ("basic/passwordFile", password_file),
    };
    if file.is_empty() {
        sheet.push(
            &format!("{base}/auth/{field}"),
            Finding::error(code::PATH, "the path is empty").expected("a file that holds the secret"),
        );
    }
}

/// Whether the host of a URL is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn check_url(sheet: &mut Sheet<'_>, pointer: &str, text: &str, sends_secrets: bool) {
    let example = "an absolute URL, such as `http://127.0.0.1:9090`";
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) => return sheet.push(pointer, Finding::error(code::URL, "neither `http` nor `https`").expected(example)),
        Err(error) => return sheet.push(pointer, Finding::error(code::URL, format!("not a URL: {error}")).expected(example)),
    };
    if !url.username().is_empty() || url.password().is_some() {
        let finding = Finding::error(code::CREDENTIALS, "credentials in a URL end up in logs");
        sheet.push(pointer, finding.fix("take them out, and use `auth: {basic: {username: …, passwordFile: …}}`"));
    }
    if url.fragment().is_some() {
        sheet.push(pointer, Finding::error(code::URL, "a fragment is never sent").fix("leave out what follows `#`"));
    }
    if sends_secrets && url.scheme() == "http" && !is_loopback(&url) {
        let finding = Finding::error(code::CREDENTIALS, "credentials would be sent in the clear");
        sheet.push(pointer, finding.fix("use `https`"));
    }
}

pub(super) fn check_flag(sheet: &mut Sheet<'_>, flag: &FlagTarget) {
    if flag.file.path.is_empty() {
        sheet.push("/spec/file/path", Finding::error(code::PATH, "the path is empty").expected("a flag definition file"));
    }
}
