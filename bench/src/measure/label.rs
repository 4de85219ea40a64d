//! What a series of figures describes.

use serde::Serialize;

use crate::options::Scenario;
use crate::system::System;

/// Which system performed which operation in which scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Label {
    /// The scenario.
    pub(crate) scenario: Scenario,
    /// The operation: `get`, `put`, …
    pub(crate) operation: String,
    /// The name of the system, or of a program that measures it.
    #[serde(rename = "who")]
    pub(crate) system: String,
    /// The number of clients, keys, or idle applications.
    pub(crate) at: Option<u32>,
}

impl Label {
    /// A label without a number.
    pub(crate) fn new(scenario: Scenario, operation: &str, system: System) -> Self {
        Self {
            scenario,
            operation: operation.to_owned(),
            system: system.name().to_owned(),
            at: None,
        }
    }

    /// The label with this number.
    pub(crate) fn at(self, at: u32) -> Self {
        Self { at: Some(at), ..self }
    }
}
