//! A proxy before a server that can be closed, or can hold selected lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{Done, sandbox};

/// Each client is connected with the server behind the gate, until the run ends.
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether new clients are disconnected.
    shut: bool,
    /// A client's line with this word is held, and nothing is passed back after such a line.
    held: Option<&'static str>,
    /// Number of lines held at present.
    waiting: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no line with these words is held.
    fn pass(&self, said: &[u8], is_line: bool) {
        let holds = |state: &State| {
            let word = state.held.map(str::as_bytes);
            word.is_some_and(|word| said.windows(word.len()).any(|part| part == word))
        };
        let mut state = self.state();
        while holds(&state) {
            state.waiting += usize::from(is_line);
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= usize::from(is_line);
        }
    }
}

impl Gate {
    /// Connects `address` with `server`, both `host:port`.
    pub fn open(address: &str, server: &str) -> Done<Self> {
        let listener = TcpListener::bind(address).map_err(|e| format!("{address}: {e}"))?;
        let shared = Arc::<Shared>::default();
        let (state, server) = (Arc::clone(&shared), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.state().shut {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&server) {
                    let _ = lead(client, server, &state);
                }
            }
        });
        Ok(Self { shared })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.notify_all();
    }

    /// Disconnects every new client.
    pub fn shut(&self) {
        self.change(|state| state.shut = true);
    }

    /// Holds every line of a client with this word, and passes nothing back after such a line.
    pub fn hold(&self, word: &'static str) {
        self.change(|state| state.held = Some(word));
    }

    /// Waits until a line is held.
    pub fn holds(&self) -> Done {
        sandbox::poll("something to be held", 30, || {
            Ok((self.shared.state().waiting > 0).then_some(()))
        })
    }

    /// Stops holding lines.
    pub fn release(&self) {
        self.change(|state| *state = State { waiting: state.waiting, ..State::default() });
    }
}

/// Copies data in both directions.
fn lead(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> Done {
    let said = Arc::<Mutex<Vec<u8>>>::default();
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let (shared_back, said_back) = (Arc::clone(shared), Arc::clone(&said));
    thread::spawn(move || -> Done {
        let mut piece = vec![0; 65536];
        loop {
            let read = from_server.read(&mut piece)?;
            let said = said_back.lock().unwrap_or_else(PoisonError::into_inner).clone();
            shared_back.pass(&said, false);
            if read == 0 {
                return Ok(to_client.shutdown(Shutdown::Both)?);
            }
            to_client.write_all(piece.get(..read).unwrap_or_default())?;
        }
    });
    let (mut to_server, shared) = (server, Arc::clone(shared));
    thread::spawn(move || -> Done {
        let mut client = BufReader::new(client);
        loop {
            let mut line = Vec::new();
            if client.read_until(b'\n', &mut line)? == 0 {
                return Ok(to_server.shutdown(Shutdown::Both)?);
            }
            shared.pass(&line, true);
            said.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&line);
            to_server.write_all(&line)?;
        }
    });
    Ok(())
}
