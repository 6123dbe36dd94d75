use super::*;

fn verdicts(lines: &[&str]) -> Vec<&'static str> {
    let mut scanner = Scanner::new(List::Names, Actions::default(), Config::default());
    lines.iter().filter_map(|line| scanner.line(line).unwrap().map(|verdict| verdict.verdict)).collect()
}

#[test]
fn a_key_in_one_query_is_blocked_in_each_encoding() {
    let secret = b"ghp_16C7e42F292c6912E7710c838347Ae178B4a";
    for label in [
        data_encoding::HEXLOWER.encode(secret),
        data_encoding::BASE32_NOPAD.encode(secret).to_lowercase(),
        data_encoding::BASE64URL_NOPAD.encode(secret),
    ] {
        let labels: Vec<String> =
            label.as_bytes().chunks(60).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
        let name = format!("{}.collector-7.net", labels.join("."));
        assert_eq!(verdicts(&[&name]), ["block"], "{name}");
    }
}

#[test]
fn names_of_every_day_are_fine() {
    let names = [
        "www.example.com",
        "api.github.com",
        "d41d8cd98f00b204e9800998ecf8427e.safeframe.googlesyndication.com",
        "ec2-54-12-3-4.eu-west-1.compute.amazonaws.com",
        "_acme-challenge.example.org",
        "4.3.2.1.in-addr.arpa",
        "xn--bcher-kva.example",
    ];
    assert_eq!(verdicts(&names), vec!["ok"; names.len()]);
}

#[test]
fn comments_and_empty_lines_have_no_verdict() {
    assert!(verdicts(&["# a comment", "", "   "]).is_empty());
}

#[test]
fn a_class_that_listens_is_blocked_and_what_is_switched_off_is_fine() {
    assert_eq!(verdicts(&["x.oast.fun", "a.webhook.site", "pastebin.com"]), ["block", "block", "alert"]);
    let mut actions = Actions::default();
    actions.set(crate::alert::model::Kind::DestinationClass, crate::detect::action::Setting::Off);
    let mut scanner = Scanner::new(List::Names, actions, Config::default());
    assert_eq!(scanner.line("x.oast.fun").unwrap().unwrap().verdict, "ok");
}

#[test]
fn the_same_list_has_the_same_result() {
    let text = |_| {
        let mut scanner = Scanner::new(List::Names, Actions::default(), Config::default());
        let lines = (0..200).map(|number| format!("{:x}.tunnel-7.net", u64::MAX / (number + 3)));
        let verdicts: Vec<String> = lines
            .map(|line| serde_json::to_string(&scanner.line(&line).unwrap().unwrap()).unwrap())
            .collect();
        verdicts.join("\n")
    };
    assert_eq!(text(0), text(1));
    assert!(text(0).contains("\"verdict\":\"block\""));
}
