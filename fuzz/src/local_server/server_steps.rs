//! Steps of the server: reactors, responses of the authentication server, deadlines, deleted
//! groups.

use super::harness::{Harness, MainState, REACTORS, SECRET};
use crate::counting_allocator;
use crate::input::text;

impl Harness<'_> {
    pub(super) fn run_reactor(&mut self, reactor: usize) -> bool {
        let busy = counting_allocator::counted(|| self.server.poll(reactor)).expect("epoll works");
        if busy {
            self.observe();
        }
        busy
    }

    pub(super) fn settle(&mut self) {
        // Clients act only at a step of the script, so responses cause no new requests here.
        loop {
            let mut busy = false;
            for reactor in 0..REACTORS {
                busy |= self.run_reactor(reactor);
            }
            if !busy {
                break;
            }
        }
        for main in self.mains.iter().flatten() {
            let is_due = !main.expected.is_empty() && main.unread.is_empty();
            assert!(
                !is_due || main.not_reading || main.ended,
                "missing response: {:?}",
                main.expected
            );
            assert!(
                !main.must_end || main.ended || main.not_reading,
                "a connection survives a protocol error"
            );
        }
        self.new = 0;
        self.check_members();
    }

    /// Responds to the oldest pending request for a secret.
    pub(super) fn respond(&mut self, how: u8) -> bool {
        let groups = &mut self.groups;
        let mut unavailable = false;
        let responded = counting_allocator::counted(|| {
            self.server.complete_lookup(|name| {
                let secret = match how {
                    0 => Ok(Some(text(SECRET))),
                    1 => Ok(Some(text(b"other"))),
                    2 => Ok(None),
                    _ => Err(()),
                };
                unavailable = secret.is_err();
                if let Some(group) = groups.iter_mut().find(|group| group.name == *name)
                    && let Ok(secret) = secret
                {
                    counting_allocator::uncounted(|| group.secrets.push(secret));
                }
                secret
            })
        });
        if unavailable {
            self.allow_close_of_logins();
        }
        responded
    }

    pub(super) fn allow_close_of_logins(&mut self) {
        for main in self.mains.iter_mut().flatten() {
            if !matches!(main.state, MainState::LoggedIn(_)) {
                main.may_end = true;
            }
        }
    }

    pub(super) fn pass_time(&mut self) {
        self.allow_close_of_logins();
        // The server closes callback connections without a session.
        let unclaimed: Vec<u8> = self
            .callbacks
            .iter()
            .flatten()
            .filter(|callback| !callback.taken)
            .map(|callback| callback.name)
            .collect();
        self.ambiguous.extend(unclaimed);
        counting_allocator::counted(|| self.server.pass_time());
        self.observe();
    }

    pub(super) fn delete_group(&mut self, group: usize) {
        // The group of the honest application exists until the end.
        if group == 0 || !self.groups[group].open {
            return;
        }
        self.close_group(group);
        // Its pairs are deleted with it. An application that puts others is disconnected.
        self.groups[group].pairs.clear();
        counting_allocator::counted(|| self.server.delete_group(&self.groups[group].name));
        self.observe();
    }

    pub(super) fn close_group(&mut self, group: usize) {
        self.groups[group].open = false;
        for main in self.mains.iter_mut().flatten() {
            main.may_end |= match &main.state {
                MainState::Login { group: entered } => *entered == Some(group),
                MainState::Verdict { group: entered, .. } => *entered == group,
                MainState::LoggedIn(member) => member.group == group,
            };
        }
    }
}
