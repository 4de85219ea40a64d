//! A snapshot as JSON, for the page. The format may change with every version, together with the
//! page. Field names here are the names in the JSON.

use std::collections::BTreeMap;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use kvs_proto::Protocol;
use serde::Serialize;

use super::labels::{LOGINS, OPERATIONS, RESULTS};
use super::recorder::BUCKETS;
use super::snapshot::{GroupDetails, Snapshot};
use crate::local::group::members::ClientInfo;

#[derive(Serialize)]
struct StatusJson<'a> {
    version: &'static str,
    socket: String,
    started_at: String,
    /// In seconds.
    uptime: f64,
    auth: AuthJson<'a>,
    totals: SumsJson,
    groups: Vec<GroupJson<'a>>,
    groups_left_out: usize,
    applications: Vec<ApplicationJson<'a>>,
    applications_left_out: usize,
    /// By kind, then by result.
    operations: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    latency: LatencyJson,
    logins: BTreeMap<&'static str, u64>,
    changes: ChangesJson,
}

#[derive(Serialize)]
struct AuthJson<'a> {
    server: &'a str,
    up: bool,
}

#[derive(Serialize)]
struct SumsJson {
    groups: usize,
    applications: usize,
    pairs: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct GroupJson<'a> {
    name: &'a str,
    framed: usize,
    original: usize,
    pairs: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct ApplicationJson<'a> {
    group: &'a str,
    number: u64,
    pid: i32,
    session: &'static str,
    connected: bool,
    connected_at: String,
    closed_at: Option<String>,
    /// In seconds.
    stay: f64,
    watches: usize,
}

#[derive(Serialize)]
struct LatencyJson {
    /// The upper bounds of all buckets but the last, in seconds.
    bounds: Vec<f64>,
    /// The number of operations in each bucket, by kind.
    buckets: BTreeMap<&'static str, Vec<u64>>,
}

#[derive(Serialize)]
struct ChangesJson {
    noted: u64,
    merged: u64,
    sent: u64,
}

/// Formats a snapshot.
///
/// # Errors
/// None in practice: all fields have a JSON form.
pub(super) fn json(snapshot: &Snapshot) -> serde_json::Result<String> {
    serde_json::to_string(&StatusJson::of(snapshot))
}

impl<'a> StatusJson<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let Snapshot { info, totals, groups, total, groups_left_out, .. } = snapshot;
        let applications: Vec<_> = groups
            .iter()
            .flat_map(|group| group.clients.iter().map(|client| ApplicationJson::of(group, client)))
            .collect();
        let operations = OPERATIONS.iter().zip(&totals.operations);
        let by_result =
            |results: &[u64]| RESULTS.into_iter().zip(results.iter().copied()).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            socket: info.socket.to_string_lossy().into_owned(),
            started_at: time(snapshot.started),
            uptime: snapshot
                .taken
                .duration_since(snapshot.started)
                .unwrap_or_default()
                .as_secs_f64(),
            auth: AuthJson { server: &info.auth, up: totals.link_is_up },
            totals: SumsJson {
                groups: groups.len() + groups_left_out,
                applications: total.v2 + total.v1,
                pairs: total.pairs,
                bytes: total.bytes,
            },
            groups: groups.iter().map(GroupJson::of).collect(),
            groups_left_out: *groups_left_out,
            applications_left_out: (total.v2 + total.v1 + total.disconnected)
                .saturating_sub(applications.len()),
            applications,
            operations: operations
                .clone()
                .map(|(name, kind)| (*name, by_result(&kind.results)))
                .collect(),
            latency: LatencyJson {
                bounds: BUCKETS.iter().map(|bound| *bound as f64 / 1e9).collect(),
                buckets: operations.map(|(name, kind)| (*name, kind.buckets.to_vec())).collect(),
            },
            logins: LOGINS.into_iter().zip(totals.logins).collect(),
            changes: ChangesJson {
                noted: totals.events_enqueued,
                merged: totals.events_coalesced,
                sent: totals.events_sent,
            },
        }
    }
}

impl<'a> GroupJson<'a> {
    fn of(group: &'a GroupDetails) -> Self {
        let GroupDetails { label, stats, .. } = group;
        Self {
            name: label,
            framed: stats.v2,
            original: stats.v1,
            pairs: stats.pairs,
            bytes: stats.bytes,
        }
    }
}

impl<'a> ApplicationJson<'a> {
    fn of(group: &'a GroupDetails, client: &ClientInfo) -> Self {
        Self {
            group: &group.label,
            number: client.number,
            pid: client.pid,
            session: match client.protocol {
                Protocol::V2 => "framed",
                Protocol::V1 => "original",
            },
            connected: client.disconnected_at.is_none(),
            connected_at: time(client.connected_at),
            closed_at: client.disconnected_at.map(time),
            stay: client.connected_for.as_secs_f64(),
            watches: client.subscriptions,
        }
    }
}

/// Formats a time as in `2026-11-22T06:26:08Z` (RFC 3339).
fn time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}
