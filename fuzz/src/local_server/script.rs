//! The steps of a script.

use super::harness::{Harness, SECRET, int};
use crate::Input;

impl Harness<'_> {
    pub(super) fn play(&mut self, mut input: Input<'_>) {
        while let Some(kind) = input.byte() {
            let slot = usize::from(kind >> 6);
            match kind % 24 {
                0 => self.connect_main(slot, input.choice(8)),
                1 => self.connect_callback(slot, input.choice(8)),
                2 => self.send_main(slot, input.chunk()),
                3 => self.send_callback(slot, input.chunk()),
                4 => self.send_main(slot, &int(i32::from(input.choice(6)))),
                5 => self.send_main(slot, input.text().as_bytes()),
                6 => self.send_ready(slot),
                7 => self.close_main(slot, input.choice(2) == 1),
                8 => self.close_callback(slot),
                9 => {
                    self.run_reactor(usize::from(input.choice(2)));
                }
                10 | 11 => self.settle(),
                12 => {
                    self.respond(input.choice(4));
                }
                13 => self.pass_time(),
                14 => self.delete_group(usize::from(input.choice(2))),
                15 => {
                    let (function, key) = (input.choice(4), input.choice(8));
                    self.repeat(slot, function, key, u32::from(input.choice(65)));
                }
                16 => {
                    let (name, group) = (input.choice(8), usize::from(input.choice(2)));
                    let right = input.choice(8) != 7;
                    self.login(slot, name, group, if right { SECRET } else { b"wrong" });
                }
                17 => self.set_not_reading(slot, input.choice(4)),
                18 => {
                    let value = input.text();
                    let next = int(i32::from(input.choice(6)));
                    self.send_main(slot, &[value.as_bytes(), &next].concat());
                }
                19 => {
                    let (key, value) = (input.choice(8), input.text());
                    self.put(slot, &[b'0' + key], value.as_bytes());
                }
                20 => self.operate(slot, 1 + input.choice(3), &[b'0' + input.choice(8)], b""),
                21 => self.acknowledge(slot),
                22 => self.honest_round(),
                _ => {
                    let name = self.groups[usize::from(input.choice(2))].name;
                    self.send_main(slot, name.as_bytes());
                }
            }
        }
    }
}
