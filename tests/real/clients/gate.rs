//! A way to a server that can be shut, and in which what is said can be held.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{Done, sandbox};

/// Whoever connects to it speaks to the server behind it, until it ends with the run.
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
    /// Who connects is sent away.
    shut: bool,
    /// A line of a client that has this in it goes no further, and after such a line nothing comes
    /// back.
    held: Option<&'static str>,
    /// So many lines are held just now.
    waiting: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing with these words is held.
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
    /// Leads from `address` to `server`, both `host:port`.
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

    /// Sends away who connects from now on.
    pub fn shut(&self) {
        self.change(|state| state.shut = true);
    }

    /// Lets no line of a client with this word pass, and nothing back to who has said such a one.
    pub fn hold(&self, word: &'static str) {
        self.change(|state| state.held = Some(word));
    }

    /// Waits until a line is held.
    pub fn holds(&self) -> Done {
        sandbox::poll("something to be held", 30, || {
            Ok((self.shared.state().waiting > 0).then_some(()))
        })
    }

    /// Lets everything pass again.
    pub fn release(&self) {
        self.change(|state| *state = State { waiting: state.waiting, ..State::default() });
    }
}

/// Passes on what both say.
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
