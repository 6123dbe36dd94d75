//! Captures: pcap and pcapng, packed with gzip or not, read as a stream in constant memory.

use std::{
    fmt,
    io::{self, Read},
};

use flate2::read::MultiGzDecoder;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader, traits::PcapReaderIterator};

use crate::detect::event::Time;

/// Bytes of a packet that a capture may claim; jumbo frames and reassembled ones have up to 256 KiB.
const LARGEST: usize = 1 << 20;
/// Bytes of the buffer.
const BUFFER: usize = 256 << 10;
/// Interfaces of a pcapng section.
const INTERFACES: usize = 4096;

/// A packet of a capture.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// When it was captured.
    pub time: Time,
    /// What its first header is.
    pub link: Linktype,
    /// Bytes it had.
    pub len: u32,
    /// Its bytes, as far as they were captured.
    pub bytes: &'a [u8],
}

/// Why a capture cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It is none.
    #[error("it is no capture: neither pcap nor pcapng, nor one of them packed with gzip")]
    Format,
    /// It ends within a packet.
    #[error("it is cut off within packet {0}: what came before was judged")]
    Cut(u64),
    /// What should be a packet is none.
    #[error("packet {packet} cannot be read: {problem}; what came before was judged")]
    Corrupt {
        /// Number of the packet.
        packet: u64,
        /// What is wrong.
        problem: String,
    },
    /// Reading failed.
    #[error("reading failed at packet {packet}: {error}; what came before was judged")]
    Read {
        /// Number of the packet.
        packet: u64,
        /// The error.
        error: io::Error,
    },
}

/// An interface of a pcapng section.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Linktype,
    /// Units in a second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

/// Reads a capture.
pub struct Capture<'r> {
    reader: Box<dyn PcapReaderIterator + Send + 'r>,
    interfaces: Vec<Interface>,
    /// Nanoseconds in a unit of a pcap's fractions.
    unit: u64,
    link: Linktype,
    number: u64,
    time: Time,
    failed: Failed,
}

impl fmt::Debug for Capture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<'r> Capture<'r> {
    /// A capture that `reader` has.
    ///
    /// # Errors
    /// If it is none, or cannot be read.
    pub fn new(mut reader: impl Read + Send + 'r) -> Result<Self, CaptureError> {
        let unreadable = |error| CaptureError::Read { packet: 1, error };
        let mut start = [0; 2];
        let there = read_fully(&mut reader, &mut start).map_err(unreadable)?;
        let start = io::Cursor::new(start).take(there as u64);
        let whole = start.chain(reader);
        if there == 2 && start_is_gzip(&whole) {
            Self::plain(MultiGzDecoder::new(whole))
        } else {
            Self::plain(whole)
        }
    }

    fn plain(reader: impl Read + Send + 'r) -> Result<Self, CaptureError> {
        let failed = Failed::default();
        let reader = Patient { reader, begun: false, failed: failed.clone() };
        let reader = create_reader(BUFFER, reader).map_err(|_| match failed.take() {
            Some(error) => CaptureError::Read { packet: 1, error },
            None => CaptureError::Format,
        })?;
        Ok(Self {
            reader,
            interfaces: Vec::new(),
            unit: 1000,
            link: Linktype::NULL,
            number: 0,
            time: Time::default(),
            failed,
        })
    }

    /// Hands each packet to `see`, to the end or the first error.
    ///
    /// # Errors
    /// What is wrong with the first packet that cannot be read, or what `see` says.
    pub fn each<E: From<CaptureError>>(
        &mut self,
        mut see: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let number = self.number + 1;
            match self.reader.next() {
                Ok((length, block)) => {
                    let frame = Reading {
                        interfaces: &mut self.interfaces,
                        unit: &mut self.unit,
                        link: &mut self.link,
                        time: &mut self.time,
                        number,
                    }
                    .block(&block);
                    match frame {
                        Ok(None) => {}
                        Ok(Some(frame)) => {
                            self.number = number;
                            see(frame)?;
                        }
                        Err(problem) => return Err(CaptureError::Corrupt { packet: number, problem }.into()),
                    }
                    self.reader.consume(length);
                }
                Err(PcapError::Eof) => return Ok(()),
                Err(PcapError::Incomplete(_)) => {
                    if self.reader.refill().is_err() {
                        return Err(self.read_error(number).into());
                    }
                }
                Err(PcapError::BufferTooSmall) => {
                    let size = self.reader.data().len().max(BUFFER) * 2;
                    if size > 2 * LARGEST || !self.reader.grow(size) {
                        let problem = "it claims to have more than a megabyte".to_owned();
                        return Err(CaptureError::Corrupt { packet: number, problem }.into());
                    }
                    if self.reader.refill().is_err() {
                        return Err(self.read_error(number).into());
                    }
                }
                Err(PcapError::UnexpectedEof) => {
                    return Err(match self.failed.take() {
                        Some(error) => CaptureError::Read { packet: number, error },
                        None => CaptureError::Cut(number),
                    }
                    .into());
                }
                Err(_) => {
                    let problem = "what stands there is no packet".to_owned();
                    return Err(CaptureError::Corrupt { packet: number, problem }.into());
                }
            }
        }
    }

    fn read_error(&self, packet: u64) -> CaptureError {
        let error = self.failed.take().unwrap_or_else(|| io::Error::other("the reason is not known"));
        // A packed file that is cut fails as such, not as a capture.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            CaptureError::Cut(packet)
        } else {
            CaptureError::Read { packet, error }
        }
    }
}

/// What a block is read with.
struct Reading<'c> {
    interfaces: &'c mut Vec<Interface>,
    unit: &'c mut u64,
    link: &'c mut Linktype,
    time: &'c mut Time,
    number: u64,
}

impl Reading<'_> {
    /// The packet of a block, if it is one.
    fn block<'b>(self, block: &'b PcapBlockOwned<'_>) -> Result<Option<Frame<'b>>, String> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                *self.unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
                *self.link = header.network;
                Ok(None)
            }
            PcapBlockOwned::Legacy(packet) => {
                let nanos = u64::from(packet.ts_usec).saturating_mul(*self.unit);
                *self.time = Time(Time::from_secs(packet.ts_sec.into()).0.saturating_add(nanos));
                Ok(Some(self.frame(*self.link, packet.origlen, packet.data)))
            }
            PcapBlockOwned::NG(block) => self.next_generation(block),
        }
    }

    fn next_generation<'b>(self, block: &'b Block<'_>) -> Result<Option<Frame<'b>>, String> {
        match block {
            Block::SectionHeader(_) => {
                self.interfaces.clear();
                Ok(None)
            }
            Block::InterfaceDescription(interface) => {
                if self.interfaces.len() >= INTERFACES {
                    return Err(format!("there are more than {INTERFACES} interfaces before it"));
                }
                let resolution = interface.ts_resolution().filter(|&units| units > 0);
                self.interfaces.push(Interface {
                    link: interface.linktype,
                    resolution: resolution.ok_or("the clock of an interface before it has no resolution")?,
                    offset: interface.ts_offset(),
                });
                Ok(None)
            }
            Block::EnhancedPacket(packet) => {
                let interface = usize::try_from(packet.if_id).ok().and_then(|id| self.interfaces.get(id));
                let interface = *interface.ok_or("it is of an interface that was not described")?;
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                *self.time = interface.time(units);
                let data = pcap_parser::traits::PcapNGPacketBlock::packet_data(packet);
                Ok(Some(self.frame(interface.link, packet.origlen, data)))
            }
            Block::SimplePacket(packet) => {
                let interface = *self.interfaces.first().ok_or("no interface was described before it")?;
                let data = pcap_parser::traits::PcapNGPacketBlock::packet_data(packet);
                Ok(Some(self.frame(interface.link, packet.origlen, data)))
            }
            _ => Ok(None),
        }
    }

    fn frame<'b>(&self, link: Linktype, len: u32, bytes: &'b [u8]) -> Frame<'b> {
        Frame { number: self.number, time: *self.time, link, len, bytes }
    }
}

impl Interface {
    fn time(&self, units: u64) -> Time {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.resolution);
        let offset = i128::from(self.offset) * 1_000_000_000;
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_add(offset);
        Time(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

/// Fills `buffer` as far as there is something; how far.
fn read_fully(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether what was read ahead are the first two bytes of a gzip file (RFC 1952, 2.3.1).
fn start_is_gzip<R>(whole: &io::Chain<io::Take<io::Cursor<[u8; 2]>>, R>) -> bool {
    whole.get_ref().0.get_ref().get_ref() == &[0x1f, 0x8b]
}

/// The error that the parser's own errors leave out.
#[derive(Clone, Debug, Default)]
struct Failed(std::sync::Arc<std::sync::Mutex<Option<io::Error>>>);

impl Failed {
    fn set(&self, error: io::Error) {
        if let Ok(mut place) = self.0.lock() {
            *place = Some(error);
        }
    }

    fn take(&self) -> Option<io::Error> {
        self.0.lock().ok()?.take()
    }
}

/// A reader whose first answer has a whole header, also of a pipe or a packed file, and whose errors are kept.
struct Patient<R> {
    reader: R,
    begun: bool,
    failed: Failed,
}

/// Bytes the first answer has at least, if there are as many: a section's header with what it says of the system.
const HEADER: usize = 2048;

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = if self.begun {
            self.reader.read(buffer)
        } else {
            self.begun = true;
            let length = buffer.len().min(HEADER);
            match buffer.get_mut(..length) {
                Some(start) => read_fully(&mut self.reader, start),
                None => Ok(0),
            }
        };
        read.inspect_err(|error| {
            let copy = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            };
            self.failed.set(copy);
        })
    }
}

#[cfg(test)]
mod tests;
