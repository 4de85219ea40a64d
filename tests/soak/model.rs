//! The model: what every application of one group may and must read.
//!
//! The coordinator reports every call to the model before it is made, and every result and callback
//! when it has arrived. Each key has one writer, whose puts and deletions are numbered as they are
//! commanded: the key's *history*. As a connection makes its calls in sequence, the key is at any
//! time at one number of its history, and never goes back. The bounds of that number are:
//!
//! - At least the key's `confirmed`: the writer's connection has responded to something later, or
//!   another application has read it.
//! - At most the last one that was commanded.
//! - The writer itself reads exactly its own last one.
//! - What an application has read before one of its calls began, that call reads too, or something
//!   newer.
//!
//! A get may return what the history has within these bounds, and nothing else. Short values may
//! occur in a history several times; the bound then rises to the first of them only, which may miss
//! a violation but never reports a false one.
//!
//! Callbacks: an application may be called for a key only between its registration and the deletion
//! of the key, and not more often than the key was put. Puts that are commanded after the response
//! to a registration must be reported; [`Model::unreported`] lists those that were not: the get of
//! the last callback may have read a newer value, but not an older one. A deletion ends all
//! watches; earlier puts may still be reported, until the subscriber has received a later event
//! ([`Model::settle`]).

use std::collections::VecDeque;
use std::fmt::Write;

/// A number in the history of a key.
pub(crate) type Seq = u64;

/// A call that is commanded. Keys are given by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Establish,
    Put(usize),
    Get(usize),
    /// The first get of a new writer, whose predecessor may have died in the middle of a put.
    TakeOver(usize),
    Delete(usize),
    Register(usize),
    /// Asks whether the application is connected.
    Ask,
    Close,
}

/// The index of a report among those of its application, and the number of reports when its call
/// began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) index: u64,
    pub(crate) begin: u64,
}

/// The number of earlier observations of a key that are kept for overlapping calls: an application
/// has two threads.
const SIGHTS: usize = 16;

pub(crate) const NO_SUCH: i32 = -7;
const NOT_CONNECTED: i32 = -2;
const CONNECTED: i32 = -15;

/// The codes that a call may return while, and after, the server closes the connection.
fn is_end(code: i32) -> bool {
    matches!(code, NOT_CONNECTED | -3 | -4 | -6 | -8 | -10)
}

#[derive(Debug)]
pub(crate) struct Model {
    keys: Vec<Key>,
    seats: Vec<Seat>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The deletion was commanded: connections may end.
    Closing,
    /// The group is deleted: no connection is left.
    Closed,
}

#[derive(Debug)]
struct Key {
    name: String,
    writer: usize,
    /// The number of the first entry of the history.
    first: Seq,
    /// `None`: no such key.
    history: VecDeque<Option<Box<str>>>,
    confirmed: Seq,
    /// The number of puts that were commanded, and the number that are known to be stored.
    puts: u64,
    stored: u64,
}

/// The seat of one application, which another one takes when it is killed.
#[derive(Debug, Default)]
struct Seat {
    connected: bool,
    /// The index of the report of the successful login.
    since: Option<u64>,
    /// The application has detected the loss of its connection. The next call returns the code.
    lost: bool,
    leaving: bool,
    pending: VecDeque<Pending>,
    /// A put that has returned and is not yet confirmed by a response.
    sent: Option<(usize, Seq)>,
    views: Vec<View>,
}

#[derive(Debug)]
struct Pending {
    call: Call,
    low: Seq,
    high: Option<Seq>,
    /// Whether the call was commanded after the deletion of its group.
    late: bool,
}

/// The state of a key from the view of one application.
#[derive(Debug, Default)]
struct View {
    base: Seq,
    /// Report indices and the numbers that the application had observed by then.
    seen: VecDeque<(u64, Seq)>,
    watch: Watch,
    registering: bool,
    /// The puts that were known to be stored when the first registration was commanded.
    stored_before: u64,
    callbacks: u64,
    /// The newest number that the get of the last callback may have read.
    reported: Option<Seq>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Watch {
    #[default]
    None,
    /// Puts from this number on must be reported.
    Since(Seq),
    /// The key may have been deleted just before or just after the registration.
    Unsure,
    /// The key was deleted; earlier puts may still be reported.
    StopOnDrop,
}

impl Key {
    fn last(&self) -> Seq {
        self.first + self.history.len() as Seq - 1
    }

    fn at(&self, seq: Seq) -> Option<&str> {
        self.history[(seq - self.first) as usize].as_deref()
    }

    fn push(&mut self, content: Option<&str>) -> Seq {
        self.puts += u64::from(content.is_some());
        self.history.push_back(content.map(Into::into));
        self.last()
    }

    fn range(&self, low: Seq, high: Seq) -> impl DoubleEndedIterator<Item = (Seq, Option<&str>)> {
        (low.max(self.first)..=high.min(self.last())).map(|seq| (seq, self.at(seq)))
    }

    /// The first and the last number within the bounds at which the history has this value.
    fn find(&self, low: Seq, high: Seq, content: Option<&str>) -> Option<(Seq, Seq)> {
        let first = self.range(low, high).find(|(_, there)| *there == content)?.0;
        let last = self.range(first, high).rev().find(|(_, there)| *there == content)?.0;
        Some((first, last))
    }

    fn confirm(&mut self, seq: Seq) {
        if seq > self.confirmed {
            let puts = self.range(self.confirmed + 1, seq).filter(|(_, there)| there.is_some());
            self.stored += puts.count() as u64;
            self.confirmed = seq;
        }
    }
}

impl View {
    fn floor(&self, begin: u64) -> Seq {
        self.seen.iter().rev().find(|(index, _)| *index < begin).map_or(self.base, |seen| seen.1)
    }

    fn saw(&mut self, index: u64, seq: Seq) {
        let newest = self.seen.back().map_or(self.base, |seen| seen.1).max(seq);
        self.seen.push_back((index, newest));
        if self.seen.len() > SIGHTS {
            self.seen.pop_front();
        }
    }
}

impl Model {
    /// A new group: no key exists. `keys` are their names and who writes them.
    pub(crate) fn new(seats: usize, keys: impl IntoIterator<Item = (String, usize)>) -> Self {
        let key = |(name, writer)| Key {
            name,
            writer,
            first: 0,
            history: VecDeque::from([None]),
            confirmed: 0,
            puts: 0,
            stored: 0,
        };
        let mut model = Self {
            keys: keys.into_iter().map(key).collect(),
            seats: Vec::new(),
            phase: Phase::Open,
        };
        model.seats.resize_with(seats, Seat::default);
        (0..seats).for_each(|seat| model.vacate(seat));
        model
    }

    /// A new application takes the seat; it has read nothing and watches nothing. Pending calls of
    /// its predecessor may have been executed or not.
    pub(crate) fn vacate(&mut self, seat: usize) {
        for Pending { call, .. } in std::mem::take(&mut self.seats[seat].pending) {
            if let Call::Delete(key) = call {
                for view in self.seats.iter_mut().filter_map(|seat| seat.views.get_mut(key)) {
                    if view.watch == Watch::StopOnDrop {
                        view.watch = Watch::Unsure;
                    }
                }
            }
        }
        let view = |key: &Key| View { base: key.confirmed, ..View::default() };
        let views = self.keys.iter().map(view).collect();
        self.seats[seat] = Seat { views, ..Seat::default() };
    }

    /// From now on the application may find its connection closed.
    pub(crate) fn leave(&mut self, seat: usize) {
        self.seats[seat].leaving = true;
    }

    pub(crate) fn key_name(&self, key: usize) -> &str {
        &self.keys[key].name
    }

    /// The number that the next put or deletion of the key will have.
    pub(crate) fn next_seq(&self, key: usize) -> Seq {
        self.keys[key].last() + 1
    }

    pub(crate) fn exists(&self, key: usize) -> bool {
        self.content(key).is_some()
    }

    /// The value of the key when all commands have been executed.
    fn content(&self, key: usize) -> Option<&str> {
        self.keys[key].at(self.keys[key].last())
    }

    /// The number of keys that exist when all commands have been executed.
    pub(crate) fn pairs(&self) -> usize {
        (0..self.keys.len()).filter(|key| self.exists(*key)).count()
    }

    pub(crate) fn is_connected(&self, seat: usize) -> bool {
        self.seats[seat].connected
    }

    /// The number of calls that have not returned.
    pub(crate) fn pending(&self, seat: usize) -> usize {
        self.seats[seat].pending.len()
    }

    /// Whether a registration for the key is pending.
    pub(crate) fn is_registering(&self, seat: usize, key: usize) -> bool {
        self.seats[seat].views[key].registering
    }

    // Calls that are commanded.

    pub(crate) fn put(&mut self, seat: usize, key: usize, value: &str) {
        let seq = self.keys[key].push(Some(value));
        self.command(seat, Call::Put(key), seq, Some(seq));
    }

    pub(crate) fn delete(&mut self, seat: usize, key: usize) {
        let existed = self.exists(key);
        let before = self.keys[key].last();
        if existed {
            self.keys[key].push(None);
            for view in self.seats.iter_mut().map(|seat| &mut seat.views[key]) {
                if view.watch != Watch::None {
                    view.watch = Watch::StopOnDrop;
                }
            }
        }
        self.command(seat, Call::Delete(key), before, Some(before));
    }

    pub(crate) fn get(&mut self, seat: usize, key: usize) {
        let of_own = self.keys[key].writer == seat;
        let last = self.keys[key].last();
        let low = if of_own { last } else { self.keys[key].confirmed };
        self.command(seat, Call::Get(key), low, of_own.then_some(last));
    }

    pub(crate) fn take_over(&mut self, seat: usize, key: usize) {
        let Key { confirmed, .. } = self.keys[key];
        let last = self.keys[key].last();
        self.command(seat, Call::TakeOver(key), confirmed, Some(last));
    }

    pub(crate) fn register(&mut self, seat: usize, key: usize) {
        let Key { writer, confirmed, stored, .. } = self.keys[key];
        let last = self.keys[key].last();
        let view = &mut self.seats[seat].views[key];
        view.registering = true;
        if view.watch == Watch::None {
            view.callbacks = 0;
            view.stored_before = stored;
        }
        let of_own = writer == seat;
        let low = if of_own { last } else { confirmed };
        self.command(seat, Call::Register(key), low, of_own.then_some(last));
    }

    pub(crate) fn establish(&mut self, seat: usize) {
        self.command(seat, Call::Establish, 0, None);
    }

    pub(crate) fn ask(&mut self, seat: usize) {
        self.command(seat, Call::Ask, 0, None);
    }

    pub(crate) fn close(&mut self, seat: usize) {
        self.leave(seat);
        self.command(seat, Call::Close, 0, None);
    }

    fn command(&mut self, seat: usize, call: Call, low: Seq, high: Option<Seq>) {
        let late = self.phase == Phase::Closed;
        self.seats[seat].pending.push_back(Pending { call, low, high, late });
    }

    // The group.

    /// Records that the deletion will be commanded.
    pub(crate) fn begin_closing(&mut self) {
        self.phase = Phase::Closing;
    }

    /// Records that the group is deleted.
    pub(crate) fn closed(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Records that the group was not deleted, so no application may have noticed anything.
    pub(crate) fn reopen(&mut self) -> Result<(), String> {
        self.phase = Phase::Open;
        match self.seats.iter().position(|seat| !seat.connected) {
            Some(seat) => {
                Err(format!("application {seat} was closed by a group that still exists"))
            }
            None => Ok(()),
        }
    }

    // Results.

    /// Checks the result of the next call of this application.
    pub(crate) fn result(
        &mut self,
        seat: usize,
        line: Line,
        code: i32,
        value: Option<&str>,
    ) -> Result<Call, (Option<Call>, String)> {
        let Some(pending) = self.seats[seat].pending.pop_front() else {
            return Err((None, "a result without a call".into()));
        };
        let call = pending.call;
        self.judge(seat, line, pending, code, value).map_err(|why| (Some(call), why))?;
        Ok(call)
    }

    fn judge(
        &mut self,
        seat: usize,
        line: Line,
        Pending { call, low, high, late }: Pending,
        code: i32,
        value: Option<&str>,
    ) -> Result<(), String> {
        let place = &mut self.seats[seat];
        match call {
            Call::Establish => {
                place.connected = code == 0;
                if place.connected {
                    place.since = Some(line.index);
                }
                // The coordinator judges other codes, as it knows whether the servers are
                // available.
                return Ok(());
            }
            Call::Close => {
                place.connected = false;
                return expect_code(1, code);
            }
            _ if !place.connected => return expect_code(NOT_CONNECTED, code),
            Call::Ask if code == NOT_CONNECTED && self.phase != Phase::Open => {
                place.lost = true;
                return Ok(());
            }
            _ if is_end(code) => {
                place.connected = false;
                return match self.phase {
                    Phase::Open => Err(format!("the connection has ended with {code}")),
                    Phase::Closing | Phase::Closed => Ok(()),
                };
            }
            _ if place.lost => return Err(format!("code {code} on a connection that is lost")),
            Call::Ask => return expect_code(CONNECTED, code),
            _ if late => return Err(format!("code {code} in a group that was deleted")),
            _ => {}
        }
        // The connection has responded, so all earlier requests were executed.
        if let Some((key, seq)) = place.sent.take() {
            self.keys[key].confirm(seq);
        }
        match call {
            Call::Put(key) => {
                expect_code(1, code)?;
                self.seats[seat].sent = Some((key, low));
            }
            Call::Delete(key) => {
                let existed = self.keys[key].range(low, low).any(|(_, there)| there.is_some());
                expect_code(if existed { 1 } else { NO_SUCH }, code)?;
                if existed {
                    self.keys[key].confirm(low + 1);
                }
            }
            Call::Get(key) => {
                let content = content(code, value)?;
                let high = high.unwrap_or(self.keys[key].last());
                self.sight(seat, line, key, low, high, content)?;
            }
            Call::TakeOver(key) => {
                let content = content(code, value)?;
                let last = high.unwrap_or(low);
                let (_, newest) = self.sight(seat, line, key, low, last, content)?;
                // Later calls were never executed.
                let key = &mut self.keys[key];
                for seq in newest + 1..=last {
                    let at = (seq - key.first) as usize;
                    key.history[at] = content.map(Into::into);
                }
                key.confirmed = last;
            }
            Call::Register(key) => self.registered(seat, key, low, high, code)?,
            Call::Establish | Call::Close | Call::Ask => {}
        }
        Ok(())
    }

    fn registered(
        &mut self,
        seat: usize,
        at: usize,
        low: Seq,
        high: Option<Seq>,
        code: i32,
    ) -> Result<(), String> {
        let key = &self.keys[at];
        let view = &mut self.seats[seat].views[at];
        view.registering = false;
        let exists = match code {
            1 => true,
            NO_SUCH => false,
            other => return Err(format!("code {other}")),
        };
        let high = high.unwrap_or(key.last());
        if !key.range(low, high).any(|(_, there)| there.is_some() == exists) {
            return Err(format!("code {code}, but {}", self.describe(at, low, high)));
        }
        if exists && !matches!(view.watch, Watch::Since(_)) {
            let deleted = key.range(low + 1, key.last()).any(|(_, there)| there.is_none());
            view.watch = if deleted { Watch::Unsure } else { Watch::Since(key.last() + 1) };
        }
        Ok(())
    }

    /// Checks the result of the get of a callback.
    pub(crate) fn callback(
        &mut self,
        seat: usize,
        line: Line,
        name: &str,
        code: i32,
        value: Option<&str>,
    ) -> Result<usize, String> {
        let Some(key) = self.keys.iter().position(|key| key.name == name) else {
            return Err(format!("a callback for {name:?}, which is no key of the group"));
        };
        // A callback of the previous connection, in another group, may still be running.
        if self.seats[seat].since.is_none_or(|since| line.begin <= since) {
            return Ok(key);
        }
        let last = self.keys[key].last();
        let view = &mut self.seats[seat].views[key];
        if view.watch == Watch::None && !view.registering {
            return Err("a callback for a key that it does not watch".into());
        }
        view.callbacks += 1;
        let puts = self.keys[key].puts - view.stored_before;
        if view.callbacks > puts {
            return Err(format!("{} callbacks for at most {puts} puts", view.callbacks));
        }
        let floor = view.floor(line.begin);
        let place = &self.seats[seat];
        if is_end(code) && (place.leaving || self.phase != Phase::Open || !place.connected) {
            return Ok(key);
        }
        let content = content(code, value)?;
        let (_, newest) = self.sight(seat, line, key, floor, last, content)?;
        self.seats[seat].views[key].reported = Some(newest);
        Ok(key)
    }

    /// Records that an application has read this value. Returns its first and last number in the
    /// history.
    fn sight(
        &mut self,
        seat: usize,
        line: Line,
        at: usize,
        low: Seq,
        high: Seq,
        content: Option<&str>,
    ) -> Result<(Seq, Seq), String> {
        let view = &mut self.seats[seat].views[at];
        let low = low.max(view.floor(line.begin));
        let key = &mut self.keys[at];
        let Some((first, last)) = key.find(low, high, content) else {
            let elsewhere = key.find(key.first, key.last(), content);
            let instead = match elsewhere {
                Some((seq, _)) if seq < low => format!("that is number {seq}, so time went back"),
                Some((seq, _)) => format!("that is number {seq}, too new"),
                None => "which was never put, or long ago".into(),
            };
            let seen = content.map_or("no such key".into(), |value| format!("{value:?}"));
            return Err(format!("{seen}, {instead}; {}", self.describe(at, low, high)));
        };
        view.saw(line.index, first);
        key.confirm(first);
        Ok((first, last))
    }

    fn describe(&self, at: usize, low: Seq, high: Seq) -> String {
        const SHOWN: usize = 6;
        let key = &self.keys[at];
        let mut text = format!(
            "key {:?} of writer {} must be at {low} to {high} (confirmed: {}), which are",
            key.name, key.writer, key.confirmed
        );
        let all: Vec<_> = key.range(low, high).collect();
        for (n, (seq, there)) in all.iter().enumerate() {
            if n < SHOWN / 2 || n + SHOWN / 2 >= all.len() {
                // Writing to a string does not fail.
                let _ = write!(text, " {seq}: {there:?}");
            } else if n == SHOWN / 2 {
                text.push_str(" …");
            }
        }
        text
    }

    // Points of rest.

    /// Whether the last put of the key was reported to the application.
    pub(crate) fn is_told(&self, seat: usize, key: usize) -> bool {
        self.must_be_told(seat, key).is_none_or(|seq| {
            self.seats[seat].views[key].reported.is_some_and(|reported| reported >= seq)
        })
    }

    fn must_be_told(&self, seat: usize, key: usize) -> Option<Seq> {
        let last = self.keys[key].last();
        let Seat { connected, views, .. } = &self.seats[seat];
        match views[key].watch {
            Watch::Since(since) if *connected && last >= since && self.exists(key) => Some(last),
            _ => None,
        }
    }

    /// Describes each missing event and its application.
    pub(crate) fn unreported(&self) -> Option<(usize, String)> {
        for seat in 0..self.seats.len() {
            for key in 0..self.keys.len() {
                if !self.is_told(seat, key) {
                    let reported = self.seats[seat].views[key].reported;
                    let last = self.keys[key].last();
                    let why = self.describe(key, last, last);
                    return Some((
                        seat,
                        format!("never notified of the last put ({reported:?}); {why}"),
                    ));
                }
            }
        }
        None
    }

    /// No call is in progress, and every application has received the event of a later put: earlier
    /// puts are no longer reported. Discards the history.
    pub(crate) fn settle(&mut self) {
        for (at, key) in self.keys.iter_mut().enumerate() {
            let last = key.last();
            key.confirm(last);
            key.history.drain(..(last - key.first) as usize);
            key.first = last;
            for view in self.seats.iter_mut().map(|seat| &mut seat.views[at]) {
                if view.watch == Watch::StopOnDrop {
                    view.watch = Watch::None;
                }
                view.seen.clear();
                view.base = last;
            }
        }
    }

    /// The keys that an application certainly watches, and those that it may watch.
    pub(crate) fn watched(&self, seat: usize) -> (Vec<&str>, Vec<&str>) {
        let (mut sure, mut perhaps) = (Vec::new(), Vec::new());
        for (view, key) in self.seats[seat].views.iter().zip(&self.keys) {
            match view.watch {
                Watch::None | Watch::StopOnDrop => {}
                Watch::Since(_) => sure.push(key.name.as_str()),
                Watch::Unsure => perhaps.push(key.name.as_str()),
            }
        }
        (sure, perhaps)
    }
}

fn expect_code(expected: i32, code: i32) -> Result<(), String> {
    if code == expected { Ok(()) } else { Err(format!("code {code} instead of {expected}")) }
}

/// The value that a get has read, from its code and string.
fn content(code: i32, value: Option<&str>) -> Result<Option<&str>, String> {
    match (code, value) {
        (1, Some(value)) => Ok(Some(value)),
        (NO_SUCH, None) => Ok(None),
        _ => Err(format!("code {code} with value {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two applications: the first writes "a", the second "b". A test decides when calls return.
    struct Play {
        model: Model,
        lines: [u64; 2],
    }

    impl Play {
        fn new() -> Self {
            let model = Model::new(2, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
            let mut play = Self { model, lines: [0, 0] };
            for seat in 0..2 {
                play.model.establish(seat);
                play.returns(seat, 0, None).unwrap();
            }
            play
        }

        fn line(&mut self, seat: usize) -> Line {
            self.lines[seat] += 1;
            Line { index: self.lines[seat] - 1, begin: self.lines[seat] - 1 }
        }

        fn returns(&mut self, seat: usize, code: i32, value: Option<&str>) -> Result<(), String> {
            let line = self.line(seat);
            self.model.result(seat, line, code, value).map(drop).map_err(|(_, why)| why)
        }

        fn called(&mut self, seat: usize, key: &str, value: Option<&str>) -> Result<(), String> {
            let line = self.line(seat);
            let code = if value.is_some() { 1 } else { NO_SUCH };
            self.model.callback(seat, line, key, code, value).map(drop)
        }

        fn put(&mut self, value: &str) {
            self.model.put(0, 0, value);
            self.returns(0, 1, None).unwrap();
        }

        /// `reader` gets "a" and reads this value.
        fn finds(&mut self, reader: usize, value: Option<&str>) -> Result<(), String> {
            self.model.get(reader, 0);
            self.returns(reader, if value.is_some() { 1 } else { NO_SUCH }, value)
        }

        fn watches(&mut self, reader: usize) {
            self.model.register(reader, 0);
            self.returns(reader, 1, None).unwrap();
        }
    }

    fn says(result: Result<(), String>, what: &str) {
        let why = result.unwrap_err();
        assert!(why.contains(what), "{why}");
    }

    #[test]
    fn reads_are_never_older_than_known_values() {
        let mut play = Play::new();
        play.put("one");
        // The put is sent and not confirmed: other applications may still read nothing.
        play.finds(1, None).unwrap();
        play.put("two");
        play.finds(1, Some("one")).unwrap();
        says(play.finds(1, None), "time went back");
        play.finds(0, Some("two")).unwrap();
        says(play.finds(1, Some("one")), "time went back");
        play.put("three");
        play.put("four");
        says(play.finds(0, Some("three")), "time went back");
        says(play.finds(1, Some("fou")), "never put");
        says(play.finds(1, None), "time went back");
    }

    #[test]
    fn deleted_key_loses_its_watches() {
        let mut play = Play::new();
        play.put("one");
        play.watches(1);
        play.model.delete(0, 0);
        play.returns(0, 1, None).unwrap();
        // The put precedes the deletion, and its event follows it.
        play.called(1, "a", None).unwrap();
        says(play.finds(0, Some("one")), "time went back");
        play.model.settle();
        play.put("two");
        says(play.called(1, "a", Some("two")), "does not watch");
        assert!(play.model.unreported().is_none());
    }

    #[test]
    fn missing_event_is_detected_unless_a_newer_value_was_seen() {
        let mut play = Play::new();
        play.put("one");
        play.finds(0, Some("one")).unwrap();
        play.watches(1);
        assert!(play.model.unreported().is_none());
        play.put("two");
        play.called(1, "a", Some("two")).unwrap();
        assert!(play.model.unreported().is_none());
        play.put("three");
        play.put("four");
        play.called(1, "a", Some("three")).unwrap();
        assert_eq!(play.model.unreported().unwrap().0, 1);
        play.called(1, "a", Some("four")).unwrap();
        assert!(play.model.unreported().is_none());
        says(play.called(1, "a", Some("four")), "4 callbacks for at most 3 puts");
    }

    #[test]
    fn put_of_a_killed_writer_is_decided_by_the_next_read() {
        for (found, impossible) in [("one", "two"), ("two", "one")] {
            let mut play = Play::new();
            play.put("one");
            play.finds(1, Some("one")).unwrap();
            play.model.put(0, 0, "two");
            play.model.vacate(0);
            play.model.establish(0);
            play.returns(0, 0, None).unwrap();
            play.model.take_over(0, 0);
            play.returns(0, 1, Some(found)).unwrap();
            says(play.finds(1, Some(impossible)), "");
            play.finds(1, Some(found)).unwrap();
            play.put("three");
            play.finds(1, Some("three")).unwrap();
        }
    }

    #[test]
    fn callback_before_the_login_does_not_count() {
        let mut play = Play::new();
        let line = play.line(1);
        play.model.vacate(1);
        play.model.callback(1, line, "a", -3, None).unwrap();
        play.model.establish(1);
        play.returns(1, 0, None).unwrap();
        play.model.callback(1, line, "a", -3, None).unwrap();
        says(play.called(1, "a", None), "does not watch");
    }

    #[test]
    fn connection_ends_only_with_its_group() {
        let mut play = Play::new();
        play.put("one");
        says(play.finds_code(1, -4), "the connection has ended");
        let mut play = Play::new();
        play.put("one");
        play.model.begin_closing();
        play.finds_code(1, -4).unwrap();
        says(play.finds_code(1, -4), "instead of -2");
        play.finds_code(1, -2).unwrap();
        play.finds(0, Some("one")).unwrap();
        play.model.closed();
        says(play.finds(0, Some("one")), "was deleted");
        play.model.ask(0);
        play.returns(0, NOT_CONNECTED, None).unwrap();
        says(play.finds(0, Some("one")), "is lost");
        play.finds_code(0, -3).unwrap();
        says(play.finds_code(0, -3), "instead of -2");
    }

    impl Play {
        fn finds_code(&mut self, reader: usize, code: i32) -> Result<(), String> {
            self.model.get(reader, 0);
            self.returns(reader, code, None)
        }
    }
}
