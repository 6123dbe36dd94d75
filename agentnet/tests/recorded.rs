//! `agentnet replay` and `agentnet scan` as people run them: no root, no kernel programs.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Runs agentnet with `input` on its standard input.
fn agentnet(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_agentnet"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("agentnet starts");
    let mut stdin = child.stdin.take().expect("it has a standard input");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // Whoever has read enough closes it.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("agentnet ends");
    writer.join().expect("the input was written");
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("the output is text");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// Bytes of a pcap's header and of a packet's.
const HEADER: usize = 24;
const PACKET: usize = 16;

/// Queries of a tunnel as packets of IPv4 without a link layer.
fn tunnel(packets: u64) -> Vec<Vec<u8>> {
    (1..=packets)
        .map(|number| {
            let data = format!("{:016x}{number:08x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in [data.as_str(), "channel-7", "net", ""] {
                message.push(u8::try_from(label.len()).expect("a label is short"));
                message.extend(label.as_bytes());
            }
            message.extend([0, 16, 0, 1]);
            let udp = u16::try_from(8 + message.len()).expect("a packet is short");
            let mut packet = vec![0x45, 0];
            packet.extend((20 + udp).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 53, 0x9c, 0x40, 0, 53]);
            packet.extend(udp.to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(message);
            packet
        })
        .collect()
}

fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file: Vec<u8> =
        [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65535, 101].into_iter().flat_map(u32::to_le_bytes).collect();
    for (second, packet) in (1_700_000_000..).zip(packets) {
        let length = u32::try_from(packet.len()).expect("a packet is short");
        file.extend([second, 0, length, length].into_iter().flat_map(u32::to_le_bytes));
        file.extend(packet);
    }
    file
}

fn stored(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, bytes).expect("a file can be written");
    path
}

/// Alerts without what differs from run to run.
fn alerts(output: &Output) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let alerts = lines(output).into_iter();
    alerts.map(|alert| (text(&alert["time"]), text(&alert["kind"]), text(&alert["reason"]))).collect()
}

#[test]
fn a_capture_has_the_same_alerts_packed_and_piped() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = pcap(&tunnel(200));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&file).expect("it can be packed");
    let packed = packer.finish().expect("it can be packed");
    let plain = agentnet(&["replay", path(&stored(&directory, "a.pcap", &file))], b"");
    assert!(plain.status.success(), "{}", said(&plain));
    let expected = alerts(&plain);
    assert!(
        expected.iter().any(|(_, kind, reason)| kind == "dns_tunnel" && reason.contains("channel-7.net"))
    );
    let blocked = lines(&plain).iter().any(|alert| alert["action"] == "blocked");
    assert!(blocked, "{expected:?}");
    let gzip = agentnet(&["replay", path(&stored(&directory, "a.pcap.gz", &packed))], b"");
    assert_eq!(alerts(&gzip), expected);
    for piped in [&file, &packed] {
        assert_eq!(alerts(&agentnet(&["replay", "-"], piped)), expected);
    }
}

#[test]
fn a_capture_that_is_cut_or_corrupt_gives_what_it_has_and_names_the_packet() {
    let packets = tunnel(200);
    let file = pcap(&packets);
    let whole = alerts(&agentnet(&["replay", "-"], &file));
    let size = PACKET + packets[0].len();
    let cut = HEADER + 150 * size + 20;
    let mut corrupt = file.clone();
    let length = HEADER + 150 * size + 8;
    corrupt[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    // As many bytes behind it as no packet has.
    corrupt.extend(vec![0; 8 << 20]);
    for broken in [&file[..cut], &corrupt] {
        let output = agentnet(&["replay", "-"], broken);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("packet 151"), "{}", said(&output));
        let found = alerts(&output);
        assert!(!found.is_empty() && whole.starts_with(&found), "{found:?}");
    }
    // The table of what there was is shown as well.
    let output = agentnet(&["replay", "--summary", "-"], &file[..cut]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(table.contains("150") && table.contains("channel-7.net"), "{table}");
}

#[test]
fn what_is_no_capture_is_one_sentence() {
    for input in [&b""[..], b"hello\n", &[0x1f, 0x8b], &[0; 4096]] {
        let output = agentnet(&["replay", "-"], input);
        assert_eq!(output.status.code(), Some(1), "{input:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(said(&output).trim_end().lines().count(), 1, "{}", said(&output));
    }
    let output = agentnet(&["replay", "/nonexistent/capture"], b"");
    assert!(!output.status.success() && said(&output).contains("/nonexistent/capture"), "{}", said(&output));
}

#[test]
fn a_policy_says_what_would_be_done() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "version = 1\nname = \"only-told\"\n\n[detect.dns_tunnel]\naction = \"alert\"\n";
    let policy = stored(&directory, "only-told.toml", text.as_bytes());
    let output = agentnet(&["replay", "--policy", path(&policy), "-"], &pcap(&tunnel(200)));
    assert!(output.status.success(), "{}", said(&output));
    let alerts = lines(&output);
    assert!(!alerts.is_empty());
    for alert in &alerts {
        assert_eq!((&alert["action"], &alert["policy"]["name"]), (&"alerted".into(), &"only-told".into()));
    }
    let invalid = stored(&directory, "invalid.toml", b"version = 1\nname = \"x\"\n[detect.nothing]\n");
    let output = agentnet(&["replay", "--policy", path(&invalid), "-"], &pcap(&tunnel(1)));
    assert!(!output.status.success() && said(&output).contains("nothing"), "{}", said(&output));
}

#[test]
fn lines_that_cannot_be_read_are_told_by_number_and_skipped() {
    let mut list = b"www.example.com\n\xff\xfe\n# a comment\n1.0 host 16\nx.oast.fun\n".to_vec();
    list.extend(vec![b'a'; 2 << 20]);
    list.extend(b"\nlast.example.org");
    let output = agentnet(&["scan", "names"], &list);
    assert_eq!(output.status.code(), Some(1));
    let verdicts: Vec<_> =
        lines(&output).iter().map(|line| (line["input"].clone(), line["verdict"].clone())).collect();
    let expected = [("www.example.com", "ok"), ("x.oast.fun", "block"), ("last.example.org", "ok")];
    assert_eq!(verdicts, expected.map(|(input, verdict)| (input.into(), verdict.into())));
    let said = said(&output);
    for number in [2, 4, 6] {
        assert!(said.contains(&format!("line {number} has no verdict: ")), "{said}");
    }
    assert!(said.contains("3 lines could not be read"), "{said}");
}

#[test]
fn each_list_has_verdicts_of_one_form() {
    let directory = tempfile::tempdir().expect("a directory");
    let secrets = stored(&directory, ".env", b"# mine\nexport DEPLOY_KEY=\"hX7-pQ2-wk9-vR4-mZ8\"\n");
    let coded = "6858372d7051322d776b392d7652342d6d5a38";
    let names = format!("www.example.com\n{coded}.example-7.net\n");
    let urls = format!("https://example.com/docs/index.html\nGET https://example-7.net/?q={coded}\n");
    let payloads = format!("hello\n{{\"note\": \"{coded}\"}}\n");
    for (list, text) in [("names", names), ("urls", urls), ("payloads", payloads)] {
        let output = agentnet(&["scan", list, "--secrets", path(&secrets)], text.as_bytes());
        assert!(output.status.success(), "{}", said(&output));
        let verdicts = lines(&output);
        assert_eq!(verdicts.len(), 2);
        for (verdict, input) in verdicts.iter().zip(text.lines()) {
            assert_eq!(verdict["input"], input);
            assert!(verdict["score"].is_number() && verdict["findings"].is_array(), "{verdict}");
        }
        assert_eq!((&verdicts[0]["verdict"], &verdicts[1]["verdict"]), (&"ok".into(), &"block".into()));
        let found = verdicts[1]["findings"].as_array().expect("findings");
        assert!(found.iter().any(|finding| finding["kind"] == "secret"), "{}", verdicts[1]);
        // The secret is named, and shown nowhere but in what was given.
        let reasons: String = found.iter().map(|finding| finding["reason"].to_string()).collect();
        assert!(reasons.contains("DEPLOY_KEY") && !reasons.contains("hX7-pQ2-wk9"), "{reasons}");
    }
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let file = pcap(&tunnel(200));
    let names = b"www.example.com\n".repeat(10_000);
    for (args, input) in
        [(&["replay", "-"][..], &file), (&["replay", "--summary", "-"], &file), (&["scan", "names"], &names)]
    {
        let mut child = Command::new(env!("CARGO_BIN_EXE_agentnet"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("agentnet starts");
        drop(child.stdout.take());
        let mut stdin = child.stdin.take().expect("it has a standard input");
        let _ = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output().expect("agentnet ends");
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", said(&output));
    }
}
