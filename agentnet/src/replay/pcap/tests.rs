use std::io::Write as _;

use super::*;

/// A pcap of `packets`, little-endian with microseconds, of Ethernet.
fn pcap(packets: &[&[u8]]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, packet) in packets.iter().enumerate() {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [1_700_000_000, u32::try_from(number).unwrap(), length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*packet);
    }
    file
}

/// A pcapng of `packets` with a clock of nanoseconds.
fn pcapng(packets: &[&[u8]]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padding = body.len().next_multiple_of(4) - body.len();
        let length = u32::try_from(12 + body.len() + padding).unwrap().to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &[0; 3][..padding], &length].concat()
    };
    let mut file =
        block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    // Ethernet; the option if_tsresol is 9.
    file.extend(block(1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]));
    for packet in packets {
        let time = 1_700_000_000_u64 * 1_000_000_000 + 5;
        let high = u32::try_from(time >> 32).unwrap();
        let low = u32::try_from(time & 0xffff_ffff).unwrap();
        let length = u32::try_from(packet.len()).unwrap();
        let head: Vec<u8> =
            [0, high, low, length, length].iter().flat_map(|word| word.to_le_bytes()).collect();
        file.extend(block(6, &[&head, *packet].concat()));
    }
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn read(file: &[u8]) -> (Vec<Vec<u8>>, Option<CaptureError>) {
    let mut packets = Vec::new();
    let done = Capture::new(file).and_then(|mut capture| {
        capture.each(|frame| {
            packets.push(frame.bytes.to_vec());
            assert_eq!(frame.time.secs(), 1_700_000_000);
            Ok::<(), CaptureError>(())
        })
    });
    (packets, done.err())
}

const PACKETS: &[&[u8]] = &[b"one", b"second", b""];

#[test]
fn both_formats_are_read_packed_and_not() {
    for file in [pcap(PACKETS), pcapng(PACKETS)] {
        for file in [gzip(&file), file] {
            let (packets, error) = read(&file);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(packets, PACKETS);
        }
    }
}

#[test]
fn a_capture_that_is_cut_gives_what_came_before_and_names_the_packet() {
    for file in [pcap(PACKETS), pcapng(PACKETS)] {
        let whole = file.len();
        for length in 1..whole {
            let (packets, error) = read(&file[..length]);
            assert_eq!(packets, PACKETS[..packets.len()]);
            match error {
                Some(CaptureError::Cut(number)) => assert_eq!(number, packets.len() as u64 + 1, "{length}"),
                Some(CaptureError::Format) => assert!(packets.is_empty()),
                Some(error) => panic!("{length}: {error}"),
                // Cut between two packets: nothing tells that more were to come.
                None => assert!(packets.len() < PACKETS.len(), "{length}"),
            }
        }
        let packed = gzip(&file);
        let (_, error) = read(&packed[..packed.len() - 9]);
        assert!(matches!(error, Some(CaptureError::Cut(_) | CaptureError::Read { .. })), "{error:?}");
    }
}

#[test]
fn a_length_that_cannot_be_is_an_error_that_names_the_packet() {
    let mut file = pcap(&[b"one", &[7; 100], b"three"]);
    let second = 24 + 16 + 3;
    file[second + 8..second + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    file.extend(vec![0; 4 << 20]);
    let (packets, error) = read(&file);
    assert_eq!(packets, [b"one"]);
    assert!(matches!(error, Some(CaptureError::Corrupt { packet: 2, .. })), "{error:?}");
}

#[test]
fn what_is_no_capture_is_said_to_be_none() {
    for file in [&b""[..], b"\x1f", b"hello, world; this is a text of some length", &gzip(b"text")] {
        assert!(matches!(read(file).1, Some(CaptureError::Format)), "{file:?}");
    }
}
