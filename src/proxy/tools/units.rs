//! Units for the service managers of Linux and macOS: one for the user, nothing for the system.

use std::path::Path;

use clap::ValueEnum;

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
        Unit::Systemd => format!(
            "# ~/.config/systemd/user/codeseal-proxy.service; then: systemctl --user enable --now codeseal-proxy\n\
             [Unit]\nDescription=codeseal proxy: code completion, sealed\n\n\
             [Service]\nType=notify\nExecStart=\"{}\" proxy\nRestart=on-failure\nRestartSec=2\nNoNewPrivileges=yes\n\
             PrivateTmp=yes\nProtectSystem=full\nLimitCORE=0\nUMask=0077\n\n[Install]\nWantedBy=default.target\n",
            program.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$")
        ),
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
