//! A running QEMU with its serial line.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes typed at once: half of the PL011's FIFO of 32 (DDI0183 2.3), so that none is lost where nobody holds them.
const GULP: usize = 16;
/// Time between two gulps. Together a rate of 4 kB/s.
const BREATH: Duration = Duration::from_millis(4);
/// How long QEMU may take to end when asked to, before it is made to.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where what is typed comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyboard {
    /// From this program, with [`Qemu::send`].
    Here,
    /// From the terminal, straight to QEMU, which puts it into raw mode meanwhile.
    Terminal,
}

/// A running QEMU. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    output: Receiver<Vec<u8>>,
    input: Option<Sender<Vec<u8>>>,
    errors: Option<JoinHandle<String>>,
    keyboard: Keyboard,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Bytes on the serial line.
    Bytes(Vec<u8>),
    /// Nothing, until the time was over.
    Nothing,
    /// QEMU ended.
    End(ExitStatus),
}

impl Qemu {
    /// Starts QEMU, whose serial line is its standard input and output.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(command: Command, keyboard: Keyboard) -> Result<Self> {
        let mut command = tied(command);
        let stdin = match keyboard {
            Keyboard::Here => Stdio::piped(),
            Keyboard::Terminal => Stdio::inherit(),
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (send, output) = channel();
        let mut stdout = child.stdout.take().context("no standard output")?;
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().context("no standard error")?;
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read until it broke is what there is to show.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let input = child.stdin.take().map(typist);
        Ok(Self { child, output, input, errors: Some(errors), keyboard })
    }

    /// Waits for something to happen, at most until `until`.
    ///
    /// # Errors
    /// The operating system lost track of QEMU.
    pub(crate) fn listen(&mut self, until: Instant) -> Result<Heard> {
        match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(bytes) => Ok(Heard::Bytes(bytes)),
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Nothing),
            Err(RecvTimeoutError::Disconnected) => Ok(Heard::End(self.child.wait()?)),
        }
    }

    /// Types bytes, at a speed that a serial line can follow.
    pub(crate) fn send(&self, bytes: Vec<u8>) {
        if let Some(input) = &self.input {
            // A typist that is gone has no QEMU to type to; its end is heard elsewhere.
            let _ = input.send(bytes);
        }
    }

    /// Ends QEMU if it still runs and returns what it wrote to its standard error.
    pub(crate) fn finish(&mut self) -> String {
        self.input = None;
        self.stop();
        self.errors.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }

    /// Asks QEMU to end, so that it gives the terminal back as it was, and makes it end if it does not.
    fn stop(&mut self) {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if ended(&mut self.child) {
            return;
        }
        // The standard library knows only the signal that nobody can act upon.
        let _ =
            Command::new("kill").args(["-TERM", &self.child.id().to_string()]).stderr(Stdio::null()).status();
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            if ended(&mut self.child) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.keyboard == Keyboard::Terminal {
            let _ = Command::new("stty").arg("sane").status();
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a command end with this program, however that ends: a QEMU whose caller was killed would go on for ever. The
/// system call for it is unsafe to make between fork and exec, so `setpriv` of util-linux makes it; without that the
/// command stays as it is.
fn tied(command: Command) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let probe = || {
        let mut probe = Command::new("setpriv");
        probe
            .args(["--pdeathsig", "TERM", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    if !SETPRIV.get_or_init(probe) {
        return command;
    }
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "TERM"]).arg(command.get_program()).args(command.get_args());
    tied
}

/// Starts the thread that types what it is sent, slowly.
fn typist(mut keys: ChildStdin) -> Sender<Vec<u8>> {
    let (send, receive) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for bytes in receive {
            for gulp in bytes.chunks(GULP) {
                if keys.write_all(gulp).and_then(|()| keys.flush()).is_err() {
                    return;
                }
                std::thread::sleep(BREATH);
            }
        }
    });
    send
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Qemu {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Qemu::start(command, Keyboard::Here).unwrap()
    }

    fn all(qemu: &mut Qemu) -> (Vec<u8>, ExitStatus) {
        let mut bytes = Vec::new();
        loop {
            match qemu.listen(Instant::now() + Duration::from_secs(20)).unwrap() {
                Heard::Bytes(more) => bytes.extend(more),
                Heard::Nothing => panic!("it hangs"),
                Heard::End(status) => return (bytes, status),
            }
        }
    }

    #[test]
    fn what_it_says_is_heard_and_what_is_typed_arrives() {
        let mut qemu = shell("read line; echo \"got $line\"; echo oops >&2; exit 3");
        qemu.send([b"a line longer than one gulp of sixteen bytes".as_slice(), b"\n"].concat());
        let (bytes, status) = all(&mut qemu);
        assert_eq!(bytes, b"got a line longer than one gulp of sixteen bytes\n");
        assert_eq!(status.code(), Some(3));
        assert_eq!(qemu.finish(), "oops\n");
    }

    #[test]
    fn silence_is_noticed_and_the_rest_stopped() {
        let mut qemu = shell("echo up; exec sleep 100");
        let started = Instant::now();
        assert_eq!(qemu.listen(started + Duration::from_secs(20)).unwrap(), Heard::Bytes(b"up\n".to_vec()));
        assert_eq!(qemu.listen(Instant::now() + Duration::from_millis(50)).unwrap(), Heard::Nothing);
        qemu.finish();
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
