//! Carries out the requests of the control socket and forms their responses.

use kvs_proto::Text;
use kvs_proto::control::{AdminErrorKind, AdminRequest, AdminResponse, Bytes, DecodeError};

use crate::directory::Unavailable;
use crate::local::admin::administration::{
    Administration, CreateError, GroupError, InvalidText, chosen_secret, group_id,
};

/// Creates a group.
///
/// # Errors
/// The response to invalid arguments.
fn create(
    administration: &Administration,
    group: &Bytes,
    secret: Option<&Bytes>,
) -> Result<Result<Text, CreateError>, AdminResponse> {
    let id = group_id(&group.0).map_err(|error| invalid("group id", &error))?;
    let secret = secret.map(|secret| chosen_secret(&secret.0)).transpose();
    let secret = secret.map_err(|error| invalid("secret", &error))?;
    Ok(administration.create(id, secret))
}

/// Carries out a request that has a single response.
pub(super) fn carry_out(administration: &Administration, request: AdminRequest) -> AdminResponse {
    match request {
        AdminRequest::Create { group, secret } => {
            match create(administration, &group, secret.as_ref()) {
                Ok(Ok(secret)) => {
                    AdminResponse::Created { group, secret: secret.as_bytes().into() }
                }
                Ok(Err(CreateError::Exists)) => {
                    let message =
                        format!("the group {group} exists already, here or on another machine");
                    AdminResponse::Error { kind: AdminErrorKind::Exists, message }
                }
                Ok(Err(CreateError::Unavailable(error))) => {
                    unavailable(&group, "not created", &error)
                }
                Err(response) => response,
            }
        }
        AdminRequest::Delete { group } => {
            match group_id(&group.0).map(|id| administration.delete(id)) {
                Ok(Ok(())) => AdminResponse::Deleted { group },
                Ok(Err(GroupError::NotFound)) => not_found(&group),
                Ok(Err(GroupError::Unavailable(error))) => {
                    unavailable(&group, "not deleted", &error)
                }
                Err(error) => invalid_id(&error),
            }
        }
        AdminRequest::Info { group } => {
            match group_id(&group.0).map(|id| administration.info(id)) {
                Ok(Ok(info)) => AdminResponse::Info {
                    group,
                    secret: info.secret.as_bytes().into(),
                    pairs: info.pairs as u64,
                },
                Ok(Err(GroupError::NotFound)) => not_found(&group),
                Ok(Err(GroupError::Unavailable(error))) => {
                    unavailable(&group, "not known for certain", &error)
                }
                Err(error) => invalid_id(&error),
            }
        }
        // The session serves these: a status has several parts, and quitting is acknowledged before
        // it begins.
        AdminRequest::Status { .. } | AdminRequest::Quit {} => quitting(),
    }
}

/// The response to a line that is not a request.
pub(super) fn not_understood(error: &DecodeError) -> AdminResponse {
    let kind = match error {
        DecodeError::Version(_) => AdminErrorKind::Version,
        DecodeError::Malformed(_) | DecodeError::NoVersion => AdminErrorKind::Invalid,
    };
    AdminResponse::Error { kind, message: error.to_string() }
}

/// The response to an invalid group id.
pub(super) fn invalid_id(error: &InvalidText) -> AdminResponse {
    invalid("group id", error)
}

fn invalid(what: &str, error: &InvalidText) -> AdminResponse {
    AdminResponse::Error {
        kind: AdminErrorKind::Invalid,
        message: format!("invalid {what}: {error}"),
    }
}

/// The response for a group that this server does not have.
pub(super) fn not_found(group: &Bytes) -> AdminResponse {
    let message = format!("this server has no group {group}");
    AdminResponse::Error { kind: AdminErrorKind::NotFound, message }
}

fn unavailable(group: &Bytes, what: &str, error: &Unavailable) -> AdminResponse {
    let kind = match error {
        Unavailable::Ended => AdminErrorKind::Quitting,
        _ => AdminErrorKind::Unavailable,
    };
    AdminResponse::Error { kind, message: format!("the group {group} is {what}: {error}") }
}

/// The response of a server that is quitting.
pub(super) fn quitting() -> AdminResponse {
    AdminResponse::Error {
        kind: AdminErrorKind::Quitting,
        message: "the server is quitting".into(),
    }
}
