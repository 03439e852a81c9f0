//! The master's list, read once.

use super::upstream::{self, PIECE, Upstream};
use crate::mailbox::{MailboxName, Record};
use crate::mupdate::{Event, Failure, Need, Stream};

/// Reads the whole list of the first server that lets us in, record by record, and leaves. The
/// server's name.
///
/// # Errors
///
/// Why the last of the servers did not tell its list to the end. What was told until then is of no
/// worth.
pub async fn read_list(
    upstream: &Upstream,
    each: &mut (dyn FnMut(MailboxName, Record) + Send),
) -> Result<String, Failure> {
    let mut last = Failure::Network("no MUPDATE server is configured".into());
    for server in 0..upstream.servers().len() {
        match upstream.log_in(server, Need::Master).await {
            Err(failure) => last = failure,
            // Half a list cannot be taken back, so no other server is tried after this one.
            Ok((connection, session)) => {
                let name = session.banner.server.clone();
                let clock = upstream.clock();
                let stream = Stream::new(session, upstream.timings(), clock.now());
                return read(connection, stream, upstream, each).await.map(|()| name);
            }
        }
    }
    Err(last)
}

async fn read(
    mut connection: super::connection::Connection,
    mut stream: Stream,
    upstream: &Upstream,
    each: &mut (dyn FnMut(MailboxName, Record) + Send),
) -> Result<(), Failure> {
    let clock = upstream.clock();
    let mut piece = vec![0; PIECE];
    loop {
        let output = std::mem::take(stream.output());
        upstream::send(&mut connection, &output).await?;
        tokio::select! {
            biased;
            read = connection.read(&mut piece) => match read {
                Ok(0) => stream.closed(),
                Ok(read) => stream.receive(upstream::bytes(&piece, read), clock.now()),
                Err(error) => return Err(Failure::Network(error.to_string())),
            },
            () = clock.reach(stream.deadline()) => stream.tick(clock.now()),
        }
        while let Some(event) = stream.next()? {
            match event {
                Event::Record(name, record) => each(name, record),
                Event::Listed => {
                    stream.output().clear();
                    stream.log_out();
                    let goodbye = std::mem::take(stream.output());
                    // The list is there, whatever becomes of the connection.
                    let _ = upstream::send(&mut connection, &goodbye).await;
                    return Ok(());
                }
                Event::Deleted(_) | Event::Current { .. } => {}
            }
        }
    }
}
