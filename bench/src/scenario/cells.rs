//! Cells that several scenarios have.

use std::cell::RefCell;
use std::rc::Rc;

use crate::keys::Keys;
use crate::measure::{Cell, Label, Measurement, Sample, Unit, time_each};
use crate::options::Scenario;
use crate::system::{Client, System};

/// A client that several cells use alternately.
pub(super) type Shared = Rc<RefCell<Box<dyn Client>>>;

pub(super) fn shared(client: Box<dyn Client>) -> Shared {
    Rc::new(RefCell::new(client))
}

/// The cells "get" and "put" of a client, one operation at a time.
pub(super) fn get_and_put<'a>(
    scenario: Scenario,
    system: System,
    client: &Shared,
    keys: &'a Keys,
    value: &'a [u8],
) -> [Cell<'a>; 2] {
    let label = |operation| Label::new(scenario, operation, system);
    [
        one_by_one(label("get"), client, keys, value, true),
        one_by_one(label("put"), client, keys, value, false),
    ]
}

/// A cell that performs one operation at a time.
pub(super) fn one_by_one<'a>(
    label: Label,
    client: &Shared,
    keys: &'a Keys,
    value: &'a [u8],
    is_get: bool,
) -> Cell<'a> {
    let client = Rc::clone(client);
    let mut key = keys.shape.buffer();
    Cell::new(label, Unit::Nanoseconds, move |measurement: &Measurement| {
        let mut client = client.borrow_mut();
        let times = time_each(measurement, |position| {
            keys.shape.write(keys.at(position), &mut key);
            match is_get {
                true => client.get(&key, value.len()),
                false => client.put(&key, value),
            }
        })?;
        Ok(Sample::latency(times))
    })
}
