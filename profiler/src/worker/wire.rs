//! Messages with descriptors over a stream socket: a header (length, number of descriptors), then so many bytes.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// A longer message is refused, in both directions.
pub const MESSAGE_LIMIT: usize = 16 << 20;
/// Descriptors with one message, at most.
pub const DESCRIPTORS: usize = 2;
const HEADER: usize = 8;

/// Room for the control message with the descriptors, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 64]);

const DESCRIPTOR_BYTES: u32 = (DESCRIPTORS * size_of::<libc::c_int>()) as u32;
// SAFETY: plain arithmetic (cmsg(3)).
const _: () = assert!(unsafe { libc::CMSG_SPACE(DESCRIPTOR_BYTES) } <= 64);

/// Sends one message.
///
/// # Errors
///
/// If the other side is gone, or doesn't take it before the deadline.
pub fn send(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> io::Result<()> {
    if bytes.len() > MESSAGE_LIMIT || descriptors.len() > DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    socket.set_write_timeout(remaining(deadline)?)?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&(descriptors.len() as u32).to_le_bytes());
    let sent = send_with(socket, &header, descriptors)?;
    let mut stream = socket;
    // The rest of the header, if there is one, has no descriptors any more.
    stream.write_all(header.get(sent..).unwrap_or_default())?;
    let mut rest = bytes;
    while !rest.is_empty() {
        socket.set_write_timeout(remaining(deadline)?)?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives one message; `None` if the other side has closed.
///
/// # Errors
///
/// If it is malformed, ends early, or isn't complete before the deadline.
pub fn receive(
    socket: &UnixStream,
    deadline: Option<Instant>,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let mut descriptors = Vec::new();
    let mut filled = 0;
    while filled < HEADER {
        socket.set_read_timeout(remaining(deadline)?)?;
        match receive_with(socket, &mut header[filled..], &mut descriptors) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [a, b, c, d, e, f, g, h] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let announced = u32::from_le_bytes([e, f, g, h]) as usize;
    if length > MESSAGE_LIMIT || announced != descriptors.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no message starts like this"));
    }
    let mut bytes = vec![0; length];
    let mut filled = 0;
    let mut stream = socket;
    while filled < length {
        socket.set_read_timeout(remaining(deadline)?)?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some((bytes, descriptors)))
}

/// Whether an error of this module means that time was up.
pub fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The time until the deadline, for a socket: without one, for ever.
fn remaining(deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let Some(deadline) = deadline else { return Ok(None) };
    let left = deadline.saturating_duration_since(Instant::now());
    // A socket takes zero for "for ever".
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
}

fn send_with(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr of zeroes is a valid one without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let size = u32::try_from(size_of_val(descriptors)).map_err(io::Error::other)?;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: plain arithmetic; the room suffices for DESCRIPTORS, of which there are no more.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        // SAFETY: the control buffer is as long as msg_controllen says, zeroed and aligned, so that the first header is in it
        // and is followed by room for the descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
            for (at, descriptor) in descriptors.iter().enumerate() {
                data.add(at).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: message points to live buffers.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn receive_with(socket: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr of zeroes is a valid one without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: message points to live buffers, which the kernel fills no further than it is told.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the control buffer and says how far.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header that CMSG_FIRSTHDR or CMSG_NXTHDR gave lies in the buffer; the kernel's lengths are true; each
        // descriptor is new and ours alone.
        unsafe {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let length = (*header).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
                for at in 0..length / size_of::<libc::c_int>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (left, right) = UnixStream::pair().unwrap();
        let (read, mut write) = std::io::pipe().unwrap();
        let long = vec![7; 1 << 20];
        let sender = std::thread::spawn(move || {
            send(&left, b"one", &[read.as_fd()], None).unwrap();
            send(&left, &long, &[], None).unwrap();
        });
        let (bytes, descriptors) = receive(&right, None).unwrap().unwrap();
        assert_eq!(bytes, b"one");
        write.write_all(b"x").unwrap();
        drop(write);
        let mut file = std::fs::File::from(descriptors.into_iter().next().unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x", "it is the same pipe");
        let (bytes, descriptors) = receive(&right, None).unwrap().unwrap();
        assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == 7) && descriptors.is_empty());
        sender.join().unwrap();
        assert!(receive(&right, None).unwrap().is_none(), "closed");
    }

    #[test]
    fn what_does_not_come_in_time_is_late() {
        let (left, right) = UnixStream::pair().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        assert!(is_late(&receive(&right, soon()).unwrap_err()));
        (&left).write_all(&[3, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
        assert!(is_late(&receive(&right, soon()).unwrap_err()), "half a message");
        assert!(is_late(&send(&left, &vec![0; 8 << 20], &[], soon()).unwrap_err()), "nobody reads");
    }

    #[test]
    fn nonsense_is_refused() {
        for header in [[255, 255, 255, 255, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]] {
            let (left, right) = UnixStream::pair().unwrap();
            (&left).write_all(&header).unwrap();
            assert_eq!(receive(&right, None).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
