//! A headless Chromium, controlled through chromedriver (W3C WebDriver over HTTP).
//!
//! The browser connects only to chromedriver and the page that a test opens, and stores its
//! profile in a temporary directory.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;
use crate::program::Program;
use crate::skip::are_installed;
use crate::sockets::private_dir;
use crate::wait::DEADLINE;

/// A browser with one window. Closed when dropped.
#[derive(Debug)]
pub struct Browser {
    agent: ureq::Agent,
    /// The URL of the session.
    session: String,
    _driver: Process,
    _profile: TempDir,
}

/// The color scheme that the user prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

const ARGUMENTS: [&str; 8] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

impl Browser {
    /// Starts a browser; `None`, reported as skipped, if chromedriver is not installed.
    ///
    /// # Panics
    /// If the browser does not start.
    pub fn start() -> Option<Self> {
        if !are_installed(&["chromedriver", "chromium"], "the page in a browser") {
            return None;
        }
        let driver = Program::new("chromedriver").arg("--port=0").spawn();
        let line = driver.expect_line_where("`… successfully on port N.`", |line| {
            line.contains(" successfully on port ")
        });
        let port: String = line.chars().filter(char::is_ascii_digit).collect();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE * 3))
            .build();
        let agent: ureq::Agent = config.into();
        let profile = private_dir();
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
            "timeouts": {"script": DEADLINE.as_millis() as u64},
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let session = post(&agent, &base, &capabilities);
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {session}"));
        let session = format!("{base}/{id}");
        Some(Self { agent, session, _driver: driver, _profile: profile })
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        post(&self.agent, &format!("{}/{path}", self.session), body)
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Panics
    /// If the page cannot be loaded.
    pub fn open(&self, url: &str) {
        self.post("url", &json!({"url": url}));
    }

    /// Runs a script in the page; returns its result.
    ///
    /// # Panics
    /// If the script throws.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until a JavaScript expression is truthy in the page; returns its value. It is
    /// evaluated after every change of the page; an exception counts as false.
    ///
    /// # Panics
    /// If the expression stays false.
    pub fn wait_for(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             const holds = () => {{ try {{ return {expression}; }} catch {{ return null; }} }};
             const first = holds();
             if (first) return done(first);
             const observer = new MutationObserver(() => {{
                 const value = holds();
                 if (value) {{ observer.disconnect(); done(value); }}
             }});
             observer.observe(document,
                 {{subtree: true, childList: true, attributes: true, characterData: true}});"
        );
        let body = json!({"script": script, "args": []});
        let answer = try_post(&self.agent, &format!("{}/execute/async", self.session), &body);
        answer.unwrap_or_else(|error| {
            let page = self.run("return document.body.innerText");
            panic!("{expression}: {error}\nThe page:\n{}", page.as_str().unwrap_or_default())
        })
    }

    /// Runs a command of the DevTools protocol.
    ///
    /// # Panics
    /// If the command fails.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Emulates a screen of this size and a user who prefers this scheme.
    pub fn emulate(&self, scheme: Scheme, width: u32, height: u32) {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}));
        let (is_narrow, size) = (width < 600, json!({"width": width, "height": height}));
        let mut metrics = size;
        metrics["deviceScaleFactor"] = json!(if is_narrow { 2 } else { 1 });
        metrics["mobile"] = json!(is_narrow);
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Writes the whole page to a PNG file.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn screenshot(&self, path: &Path) {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.devtools("Page.captureScreenshot", parameters);
        let bytes = answer["data"].as_str().map(from_base64).unwrap_or_default();
        std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The console messages since the last call, including loading errors.
    ///
    /// # Panics
    /// If the request fails.
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().unwrap_or_else(|| panic!("no list: {entries}"));
        entries.iter().map(|entry| entry["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    /// Closes the WebDriver session, which ends the browser. Dropping the process then ends
    /// chromedriver.
    fn drop(&mut self) {
        // After a failure chromedriver may be gone.
        let _ = self.agent.delete(&self.session).call();
    }
}

fn post(agent: &ureq::Agent, url: &str, body: &Value) -> Value {
    try_post(agent, url, body).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Sends a WebDriver command; returns the value in the response.
fn try_post(agent: &ureq::Agent, url: &str, body: &Value) -> Result<Value, String> {
    let request = agent.post(url).header("Content-Type", "application/json");
    let mut response = request.send(body.to_string()).map_err(|error| error.to_string())?;
    let is_success = response.status().is_success();
    let text = response.body_mut().with_config().limit(1 << 28).read_to_string();
    let text = text.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let value = answer["value"].clone();
    if is_success { Ok(value) } else { Err(value.to_string()) }
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let decode = |four: &[u8]| {
        let bits = four.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::from_base64;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(from_base64("aGVsbG8="), b"hello");
        assert_eq!(from_base64("aGVsbG8h"), b"hello!");
        assert_eq!(from_base64("/+8="), [0xff, 0xef]);
        assert_eq!(from_base64(""), b"");
    }
}
