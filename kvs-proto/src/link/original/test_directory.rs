//! A directory in memory, for tests.

use std::collections::HashMap;

use super::directory::LinkDirectory;
use crate::text::Text;

#[derive(Default)]
pub(super) struct TestDirectory(pub(super) HashMap<Text, Text>);

impl LinkDirectory for TestDirectory {
    fn secret(&self, name: &Text) -> Option<Text> {
        self.0.get(name).copied()
    }
    fn insert(&mut self, name: Text, secret: Text) -> bool {
        !self.0.contains_key(&name) && self.0.insert(name, secret).is_none()
    }
    fn remove(&mut self, name: &Text) -> bool {
        self.0.remove(name).is_some()
    }
}

pub(super) fn text(s: &str) -> Text {
    Text::new(s.as_bytes()).unwrap()
}
