//! Units for the service managers of Linux and macOS: one for the user, nothing for the system.

use std::path::Path;

use clap::ValueEnum;

/// What the socket unit begins with.
const SOCKET_FILE: &str = "# ~/.config/systemd/user/codeseal-proxy.socket";

/// The service managers that there is a unit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unit {
    /// `systemctl --user`
    Systemd,
    /// `launchctl`
    Launchd,
}

/// The unit that runs `program proxy`.
pub(super) fn unit(kind: Unit, program: &Path) -> String {
    let program = program.display().to_string();
    match kind {
        Unit::Systemd => format!("{}\n{}", service(&program), socket()),
        Unit::Launchd => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
             \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <!-- ~/Library/LaunchAgents/codeseal.proxy.plist; then: launchctl load that file -->\n\
             <plist version=\"1.0\">\n<dict>\n  <key>Label</key>\n  <string>codeseal.proxy</string>\n  \
             <key>ProgramArguments</key>\n  <array>\n    <string>{}</string>\n    <string>proxy</string>\n  </array>\n  \
             <key>RunAtLoad</key>\n  <true/>\n  <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    \
             <false/>\n  </dict>\n  <key>ProcessType</key>\n  <string>Interactive</string>\n</dict>\n</plist>\n",
            program.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
        ),
    }
}

/// systemd's service. Its first line says where it goes; the socket's first line ends it.
fn service(program: &str) -> String {
    let program = program.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!(
        "# ~/.config/systemd/user/codeseal-proxy.service; then: systemctl --user enable --now codeseal-proxy.service\n\
         [Unit]\nDescription=codeseal proxy: code completion, sealed\n\n\
         [Service]\nType=notify\nExecStart=\"{program}\" proxy\nRestart=on-failure\nRestartSec=2\nNoNewPrivileges=yes\n\
         PrivateTmp=yes\nProtectSystem=full\nLimitCORE=0\nUMask=0077\n\n[Install]\nWantedBy=default.target\n"
    )
}

/// systemd's socket: with it the proxy is started by the first connection.
fn socket() -> String {
    format!(
        "{SOCKET_FILE} (optional: starts the proxy at the first connection); then: \
         systemctl --user enable --now codeseal-proxy.socket\n\
         [Unit]\nDescription=codeseal proxy: its sockets\n\n\
         [Socket]\nListenStream=127.0.0.1:8012\nListenStream=[::1]:8012\nNoDelay=yes\n\n\
         [Install]\nWantedBy=sockets.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_the_program_as_its_format_wants_it() {
        let program = Path::new("/opt/100% & <more>/codeseal");
        assert!(unit(Unit::Systemd, program).contains("ExecStart=\"/opt/100%% & <more>/codeseal\" proxy\n"));
        assert!(
            unit(Unit::Launchd, program).contains("<string>/opt/100% &amp; &lt;more&gt;/codeseal</string>")
        );
    }
}
