use domain::base::{MessageBuilder, Name as WireName, iana::Rtype};

use super::*;

fn query(name: &str, rtype: Rtype) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec().question();
    message.push((WireName::<Vec<u8>>::vec_from_str(name).unwrap(), rtype)).unwrap();
    message.finish()
}

#[test]
fn an_ordinary_query_has_no_fault() {
    for (name, rtype) in
        [("www.Example.com", Rtype::A), ("x.example", Rtype::HTTPS), ("_dmarc.x.org", Rtype::TXT)]
    {
        let view = View::read(&query(name, rtype), false);
        assert_eq!(view.name.display(), name);
        assert_eq!((view.rtype, view.is_query, view.answer), (rtype.to_int(), true, None));
        assert!(view.faults.is_empty(), "{:?}", view.faults.iter().collect::<Vec<_>>());
    }
}

#[test]
fn every_cut_of_a_message_is_malformed_and_none_panics() {
    let whole = query("a.long.name.example.com", Rtype::TXT);
    for length in 0..whole.len() {
        assert!(View::read(&whole[..length], false).faults.has(Fault::Malformed), "{length}");
    }
}

#[test]
fn faults_are_told_apart() {
    let has = |bytes: &[u8], fault| assert!(View::read(bytes, false).faults.has(fault), "{fault:?}");
    let plain = query("x.example", Rtype::A);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        change(&mut bytes);
        bytes
    };
    has(&with(|bytes| bytes[3] |= 0x40), Fault::Reserved);
    has(&with(|bytes| bytes[2] |= 0x28), Fault::Opcode);
    has(&with(|bytes| bytes[5] = 0), Fault::Questions);
    has(&with(|bytes| *bytes.last_mut().unwrap() = 3), Fault::Class);
    has(&with(|bytes| bytes.push(1)), Fault::Trailing);
    has(&with(|bytes| bytes[13] = 0xe9), Fault::Bytes);
    has(&query("a.b.c.d.e.f.g.h.i.j.k", Rtype::A), Fault::Labels);
    has(&query(&format!("{0}.{0}.{0}", "a".repeat(60)), Rtype::A), Fault::Long);
}

#[test]
fn options_that_hide_data_are_seen() {
    for (code, data, fault) in [
        (12_u16, vec![0; 40], Some(Fault::Padding)),
        (12, vec![7; 40], Some(Fault::PaddingData)),
        (65001, vec![7; 40], Some(Fault::Option)),
        (65001, vec![7; 8], None),
        (10, vec![7; 8], None),
    ] {
        let mut message = MessageBuilder::new_vec().question();
        message.push((WireName::<Vec<u8>>::vec_from_str("x.example").unwrap(), Rtype::A)).unwrap();
        let mut message = message.additional();
        message
            .opt(|opt| {
                use domain::dep::octseq::OctetsBuilder as _;
                let length = u16::try_from(data.len()).unwrap();
                opt.push_raw_option(code.into(), length, |target| target.append_slice(&data))
            })
            .unwrap();
        let bytes = message.finish();
        let view = View::read(&bytes, false);
        assert_eq!(view.faults.iter().last(), fault, "{code} {data:?}");
        if code == 12 {
            assert!(!View::read(&bytes, true).faults.has(Fault::Padding));
        }
    }
}

#[test]
fn what_answers_say_freely_is_counted() {
    assert_eq!(grammar::opaque_bytes(rtype::TXT, b"\x1ev=spf1 include:example.com -all"), 0);
    assert_eq!(grammar::opaque_bytes(rtype::TXT, b"\x05hello"), 5);
    assert_eq!(grammar::opaque_bytes(rtype::NULL, &[0; 300]), 300);
    assert_eq!(grammar::opaque_bytes(rtype::A, &[1, 2, 3, 4]), 0);
    assert_eq!(grammar::opaque_bytes(rtype::CNAME, &[b'a'; 40]), 0);
    assert_eq!(grammar::opaque_bytes(rtype::CNAME, &[b'a'; 140]), 140);
}

#[test]
fn a_line_of_a_log_asks_and_answers() {
    let logged = Logged {
        name: "c1.example.com",
        rtype: 16,
        rcode: Some(0),
        answers: 2,
        answer_bytes: 300,
        query_bytes: 0,
    };
    let view = View::logged(&logged, Direction::Egress);
    assert!(view.is_query);
    assert_eq!(view.answer.unwrap().opaque, 300);
    assert_eq!(view.answer.unwrap().largest, 150);
}
