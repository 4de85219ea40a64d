//! The fixture of most end-to-end tests: both servers, groups with their secrets, and applications.
//!
//! A [`TestEnv`] runs an authentication server on ports of its own and a local server on sockets of
//! its own, and creates groups. Applications are opened on demand. Each raw application binds its
//! sockets to a name of its own, so that the server tells several logins of the test's process
//! apart. Dropping a `TestEnv` ends the local server before the authentication server.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvs_proto::Protocol;
use tempfile::TempDir;

use crate::auth_server::{AuthServer, AuthServerBuilder};
use crate::channel::Channel;
use crate::driver::Driver;
use crate::library::connection_builder;
use crate::local_server::{LocalServer, LocalServerBuilder};
use crate::metrics_client::MetricsClient;
use crate::program::Program;
use crate::raw_v1::RawV1App;
use crate::raw_v2::RawV2App;
use crate::sockets::{Sockets, private_dir};

/// The group of a [`TestEnv`] whose builder names none.
pub const GROUP: &str = "g";

/// Both servers with at least one group.
#[derive(Debug)]
pub struct TestEnv {
    /// The local server.
    pub server: LocalServer,
    /// The authentication server.
    pub auth: AuthServer,
    groups: Vec<Group>,
    protocol: Protocol,
    dir: TempDir,
    apps: AtomicUsize,
    metrics: OnceLock<MetricsClient>,
}

/// A group of the environment.
#[derive(Debug)]
struct Group {
    name: String,
    secret: String,
}

/// Options of a [`TestEnv`].
pub struct TestEnvBuilder {
    auth: AuthServerBuilder,
    server: Vec<ConfigureServer>,
    /// The names of the groups. `None`: only [`GROUP`].
    groups: Option<Vec<String>>,
    protocol: Protocol,
}

type ConfigureServer = Box<dyn FnOnce(LocalServerBuilder) -> LocalServerBuilder>;

impl fmt::Debug for TestEnvBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestEnvBuilder").field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl TestEnv {
    /// Starts both servers with their defaults and creates the group [`GROUP`].
    ///
    /// # Panics
    /// If a server does not start.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Starts a local server with these additional arguments.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn with_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::builder().args(args).start()
    }

    /// Starts both servers for programs and connections of this protocol.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn with_protocol(protocol: Protocol) -> Self {
        Self::builder().protocol(protocol).start()
    }

    /// Starts both servers without creating a group.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn without_group() -> Self {
        Self::builder().no_group().start()
    }

    /// An environment to be configured.
    pub fn builder() -> TestEnvBuilder {
        TestEnvBuilder {
            auth: AuthServer::builder(),
            server: Vec::new(),
            groups: None,
            protocol: Protocol::V2,
        }
    }

    /// The name of the first group.
    pub fn group(&self) -> &str {
        &self.groups[0].name
    }

    /// The secret of the first group.
    pub fn secret(&self) -> &str {
        &self.groups[0].secret
    }

    /// The secret of a group that the builder named.
    ///
    /// # Panics
    /// If the builder did not name it.
    pub fn secret_of(&self, group: &str) -> &str {
        let found = self.groups.iter().find(|known| known.name == group);
        &found.unwrap_or_else(|| panic!("the environment has no group {group:?}")).secret
    }

    /// The protocol of the programs and of the library's connections.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The number of pairs in the first group.
    ///
    /// # Panics
    /// If the group does not exist.
    pub fn pairs(&self) -> usize {
        self.server.group_info(self.group()).expect("the group exists").pairs
    }

    /// Opens a connection to the first group by the crate `kvs`.
    ///
    /// # Panics
    /// If the login fails.
    pub fn connect(&self) -> kvs::Connection {
        self.try_connect(self.group(), self.secret()).expect("the secret is right")
    }

    /// Opens a connection by the crate `kvs`.
    ///
    /// # Errors
    /// As [`kvs::Builder::open`].
    pub fn try_connect(&self, group: &str, secret: &str) -> Result<kvs::Connection, kvs::Error> {
        connection_builder(&self.server, self.protocol).open(group, secret)
    }

    /// Logs a v1 application without the library in to the first group.
    ///
    /// # Panics
    /// If the login fails.
    pub fn raw_v1(&self) -> RawV1App {
        let (group, secret) = (self.group(), self.secret());
        RawV1App::login_as(&self.server, self.dir.path(), &self.app_name(), group, secret)
    }

    /// Logs a v2 application without the library in to the first group.
    ///
    /// # Panics
    /// If the login fails.
    pub fn raw_v2(&self) -> RawV2App {
        self.raw_v2_in(self.group(), self.secret())
    }

    /// Logs a v2 application without the library in to `group`.
    ///
    /// # Panics
    /// If the login fails.
    pub fn raw_v2_in(&self, group: &str, secret: &str) -> RawV2App {
        RawV2App::login_as(&self.server, self.dir.path(), &self.app_name(), group, secret)
    }

    /// Connects the main channel of an application with a name of its own, before its login. The
    /// name is for its [callback channel](Self::callback_channel).
    ///
    /// # Panics
    /// If the server does not accept the connection.
    pub fn main_channel(&self) -> (Channel, String) {
        let name = self.app_name();
        let channel = Channel::connect_as("main", self.server.socket(), self.dir.path(), &name);
        (channel, name)
    }

    /// Connects the callback channel of the application `name`.
    ///
    /// # Panics
    /// If the server does not accept the connection.
    pub fn callback_channel(&self, name: &str) -> Channel {
        let path = self.server.callback_socket();
        Channel::connect_as("callback", path, self.dir.path(), name)
    }

    /// The directory to which raw applications bind their sockets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A name that tells one more application of the test's process apart.
    pub fn app_name(&self) -> String {
        self.apps.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Starts a C application that makes single calls, and logs it in to the first group.
    ///
    /// # Panics
    /// If the login fails.
    pub fn driver(&self) -> Driver {
        let driver = self.unconnected_driver();
        assert_eq!(driver.establish(self.group(), self.secret()), 0, "establish_connection");
        driver
    }

    /// Starts a C application that makes single calls, without a connection.
    pub fn unconnected_driver(&self) -> Driver {
        Driver::spawn(self.driver_program())
    }

    /// The program of a [`Driver`] for this server, in the environment's protocol.
    pub fn driver_program(&self) -> Program {
        Driver::program().served_by(&self.server).protocol(self.protocol)
    }

    /// A program for this server, in the environment's protocol.
    pub fn program(&self, path: impl AsRef<Path>) -> Program {
        Program::new(path.as_ref()).served_by(&self.server).protocol(self.protocol)
    }

    /// A program whose first arguments are the first group and its secret.
    pub fn member(&self, path: impl AsRef<Path>) -> Program {
        self.program(path).args([self.group(), self.secret()])
    }

    /// The HTTP pages of a local server that was built with [`metrics`](TestEnvBuilder::metrics).
    ///
    /// # Panics
    /// If the server does not log their address.
    pub fn metrics(&self) -> &MetricsClient {
        self.metrics.get_or_init(|| MetricsClient::of(&self.server))
    }
}

impl TestEnvBuilder {
    /// Creates this group instead of [`GROUP`]; with several calls, all of them.
    pub fn group(mut self, name: &str) -> Self {
        self.groups.get_or_insert_default().push(name.to_owned());
        self
    }

    /// Creates no group. The methods of [`TestEnv`] that need one panic.
    pub fn no_group(mut self) -> Self {
        self.groups = Some(Vec::new());
        self
    }

    /// Selects the protocol of the programs and of the library's connections; v2 by default.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Adds arguments of the local server.
    pub fn args<'a>(self, args: impl IntoIterator<Item = &'a str>) -> Self {
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        self.configure(move |server| server.args(args.iter().map(String::as_str)))
    }

    /// Adds an argument of the authentication server.
    pub fn auth_arg(mut self, arg: &str) -> Self {
        self.auth = self.auth.arg(arg);
        self
    }

    /// Configures the local server in any other way.
    pub fn configure(
        mut self,
        configure: impl FnOnce(LocalServerBuilder) -> LocalServerBuilder + 'static,
    ) -> Self {
        self.server.push(Box::new(configure));
        self
    }

    /// Serves metrics over HTTP on a free port: [`TestEnv::metrics`].
    pub fn metrics(self) -> Self {
        self.args(["--metrics", "127.0.0.1:0"])
    }

    /// Starts both servers and creates the groups.
    ///
    /// # Panics
    /// If a server does not start, or a group is not created.
    pub fn start(self) -> TestEnv {
        let auth = self.auth.start();
        let server = LocalServer::builder(auth.addr());
        let server = self.server.into_iter().fold(server, |server, configure| configure(server));
        let server = server.start();
        let names = self.groups.unwrap_or_else(|| vec![GROUP.to_owned()]);
        let create = |name: String| Group { secret: server.create_group(&name), name };
        let groups = names.into_iter().map(create).collect();
        TestEnv {
            groups,
            server,
            auth,
            protocol: self.protocol,
            dir: private_dir(),
            apps: AtomicUsize::new(0),
            metrics: OnceLock::new(),
        }
    }
}
