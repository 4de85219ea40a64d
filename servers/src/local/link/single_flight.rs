//! Asks the authentication server for the secret of one group, for all who log in at the same time.
//!
//! The exchanges with the authentication server go one after the other for all groups. So that a flood of
//! logins to one group does not hold up those of the others, at most one question for each group waits or is
//! under way. Who wants to know meanwhile gets the answer to the next one, as one that was
//! asked before a login began must not decide about it.

use std::mem;

use parking_lot::Mutex;

use crate::local::net::mailbox::Address;

/// Who wants to know the secret of one group.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// For the answer to the question that is under way; nobody when there is none.
    now: Vec<Address>,
    /// For that to the next.
    next: Vec<Address>,
}

impl Asking {
    /// Somebody wants to know; `true`: the question is to be asked.
    pub(crate) fn wanted(&self, by: Address) -> bool {
        let waiting = &mut *self.waiting.lock();
        if waiting.now.is_empty() {
            waiting.now.push(by);
            return true;
        }
        waiting.next.push(by);
        false
    }

    /// The answer is here. Returns all whom it is for, and whether the question is to be asked again.
    pub(crate) fn answered(&self) -> (Vec<Address>, bool) {
        let waiting = &mut *self.waiting.lock();
        let next = mem::take(&mut waiting.next);
        let ask_again = !next.is_empty();
        (mem::replace(&mut waiting.now, next), ask_again)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::local::net::mailbox::{Mailbox, SessionId};

    #[test]
    fn one_question_is_under_way_and_nobody_gets_an_answer_to_one_before_its_own() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let mailbox = Arc::new(Mailbox::new(waker));
        let session = |n| Address { mailbox: Arc::clone(&mailbox), session: SessionId(n) };
        let numbers = |told: Vec<Address>| told.iter().map(|by| by.session.0).collect::<Vec<_>>();
        let asking = Asking::default();
        assert!(asking.wanted(session(1)));
        // These come when the first question may have been answered already.
        assert!(!asking.wanted(session(2)));
        assert!(!asking.wanted(session(3)));
        let (told, again) = asking.answered();
        assert_eq!((numbers(told), again), (vec![1], true));
        assert!(!asking.wanted(session(4)));
        let (told, again) = asking.answered();
        assert_eq!((numbers(told), again), (vec![2, 3], true));
        let (told, again) = asking.answered();
        assert_eq!((numbers(told), again), (vec![4], false));
        assert!(asking.wanted(session(5)));
    }
}
