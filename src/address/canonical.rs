//! Form of a recipient for the backend.

use super::recipient::{Recipient, is_dot_string, push_quoted};
use super::rules::Rules;
use crate::model::name::MailboxName;

impl Rules {
    /// Returns the recipient in the form that the backend must get, which is an external form;
    /// `found` is the name under which its mailbox was found.
    ///
    /// `lmtpproxyd` passes on a recipient in lower case; a backend given `jane+Work@Example.org`
    /// refuses it (3.2) or dies of a failed assertion (3.6, 3.10). The form is:
    ///
    /// * the domain as in the name, or in the spelling of `defaultdomain`, because `lmtpd` compares
    ///   byte by byte; otherwise in lower case;
    /// * the local part in lower case with `lmtp_downcase_rcpt`;
    /// * the detail unchanged. It is omitted if the mail server would have to quote it
    ///   (`jane+a..b`): `lmtpd` finds no mailbox for a quoted local part.
    pub fn canonical(&self, recipient: &Recipient<'_>, found: &MailboxName) -> Vec<u8> {
        let mut local = recipient.local().to_vec();
        if self.downcase {
            local[..recipient.user().len()].make_ascii_lowercase();
        }
        let user = recipient.user();
        if !recipient.needs_quotes() && !is_dot_string(&local) && is_dot_string(user) {
            local.truncate(user.len());
        }
        let mut address = Vec::with_capacity(local.len() + 32);
        push_quoted(&local, recipient.domain().is_none(), &mut address);
        if let Some(domain) = recipient.domain() {
            address.push(b'@');
            address.extend_from_slice(match (found.domain(), &self.defaultdomain) {
                (Some(found), _) if found.eq_ignore_ascii_case(domain) => found,
                (_, Some(default)) if self.is_defaultdomain(domain) => default.as_bytes(),
                _ => domain,
            });
        }
        address
    }

    /// Returns a domain that [`Rules::canonical`] writes with capital letters although it came in
    /// lower case, because imapd.conf spells it so. `None`: lower case stays.
    pub fn respelled_domain(&self) -> Option<String> {
        let catchall = self.catchall_target();
        let catchall = catchall.as_ref().and_then(|target| target.name.domain());
        let default = self.defaultdomain.as_deref().map(str::as_bytes);
        let spelled = |domain: &&[u8]| domain.iter().any(u8::is_ascii_uppercase);
        let domain = default.into_iter().chain(catchall).find(spelled)?;
        Some(String::from_utf8_lossy(domain).into_owned())
    }
}
