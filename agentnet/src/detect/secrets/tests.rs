use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER};

use super::*;

/// Made for these tests; nothing accepts them.
const TOKENS: &[(&str, &str)] = &[
    ("gitlab_token", "glpat-x7Rk2mPq9LzT4vNb8sWd"),
    ("slack_token", "xoxp-123456789012-234567890123-345678901234-0a1b2c3d4e5f60718293a4b5c6d7e8f9"),
    ("aws_access_key_id", "AKIAQ3X7ZL5T2M6WVB4K"),
    ("google_api_key", "AIzaSyB7x2Kq9mLpW4vT8nRz3cYd6FgH1jUeQ5s"),
    ("stripe_key", "sk_live_8fK2mQx7Rt4vWz9LpB3nYc6D"),
    ("sendgrid_key", "SG.x7Rk2mPq9LzT4vNb8sWdQw.kLmN4pQrS8tUvWxYz0123456789AbCdEfGhIjKlMnOp"),
    ("anthropic_key", "sk-ant-api03-x7Rk2mPq9LzT4vNb8sWdQwErTy"),
    ("digitalocean_token", "dop_v1_0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"),
];

fn has(bytes: &[u8], rule: &str) -> Option<String> {
    find(bytes, None).into_iter().find(|found| found.rule == rule).map(|found| found.encoding)
}

#[test]
fn a_token_is_found_in_every_form() {
    for (rule, token) in TOKENS {
        let json = format!("{{\"text\":\"the key is {token}, keep it\"}}");
        let url: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for (form, text) in [
            ("raw", (*token).to_owned()),
            ("raw", json.clone()),
            ("hex", HEXLOWER.encode(token.as_bytes())),
            ("hex", HEXLOWER.encode(json.as_bytes()).to_uppercase()),
            ("base32", BASE32_NOPAD.encode(token.as_bytes())),
            ("base32", BASE32_NOPAD.encode(json.as_bytes()).to_lowercase()),
            ("base64", BASE64.encode(token.as_bytes())),
            ("base64", BASE64URL_NOPAD.encode(json.as_bytes())),
            ("base64+base64", BASE64.encode(BASE64.encode(token.as_bytes()).as_bytes())),
            ("url", url),
        ] {
            assert_eq!(has(text.as_bytes(), rule).as_deref(), Some(form), "{rule} in {text}");
        }
    }
}

#[test]
fn lines_of_an_encoded_file_are_put_together() {
    let file = format!("{}KEY={}\n", "A=1\n".repeat(12), TOKENS[0].1);
    let encoded = BASE64.encode(file.as_bytes());
    for line_end in ["\n", "\r\n"] {
        let lines: Vec<String> =
            encoded.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert!(has(lines.join(line_end).as_bytes(), "gitlab_token").is_some());
    }
}

#[test]
fn a_packed_file_is_unpacked() {
    use std::io::Write as _;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(TOKENS[0].1.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    assert_eq!(has(&packed, "gitlab_token").as_deref(), Some("gzip"));
    assert_eq!(has(BASE64.encode(&packed).as_bytes(), "gitlab_token").as_deref(), Some("base64+gzip"));
}

#[test]
fn lock_files_have_none() {
    let lock = r#"
[[package]]
name = "aho-corasick"
version = "1.1.5"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "8e60d3430d3a69478ad0993f19238d2df97c507009a52b3c10addcd7f6bcb916"
  resolved "https://registry.yarnpkg.com/ansi-regex/-/ansi-regex-5.0.1.tgz#082cb2c89c9fe8659a311a53bd6a4dc5301db304"
  integrity sha512-quJQXlTSUGL2LH9SUXo8VwsY4soanhgo6LNSm84E1LBcE8s3O0wpdiRzyR9z/ZZJMlMWv37qOOb9pdJlMUEKFQ==
    "node_modules/js-tokens": { "version": "9.0.1", "integrity": "sha512-mxa9E9ITFOt0ban3j6L5MpjwegGz6lBQmM1IJkWeBZGcMxto50+eWdjC/52xDbS2vy0k7vIMK0Fe2wfL9OQSpQ==" }
 sha256:0f1d2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7 --hash=sha256:aa
"#;
    assert_eq!(find(lock.as_bytes(), None), []);
}

#[test]
fn a_bomb_costs_no_more_than_it_is_worth() {
    use std::io::Write as _;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&vec![b'a'; 50 << 20]).unwrap();
    assert_eq!(find(&packer.finish().unwrap(), None), []);
}
