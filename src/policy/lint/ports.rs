//! Ports of an image, as the launcher opens them (`openPorts` in `launcher/container_runner.go` of go-tpm-tools).

use super::super::image::Image;

/// The number and the protocol for which the launcher opens the firewall, or why it refuses the launch.
pub(super) fn opened(port: &str) -> Result<(u16, &str), String> {
    let mut parts = port.split('/');
    let (Some(number), Some(protocol), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("the launcher takes ports as NUMBER/tcp or NUMBER/udp, not {port:?}"));
    };
    let is_decimal = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
    let Some(value) = number.parse::<u16>().ok().filter(|_| is_decimal) else {
        return Err(format!("{number:?} in the port {port:?} is no number up to 65535"));
    };
    if number.len() > 1 && number.starts_with('0') {
        return Err(format!("iptables reads {number} in the port {port:?} as octal"));
    }
    match protocol {
        "tcp" | "udp" => Ok((value, protocol)),
        _ => {
            Err(format!("the launcher knows tcp and udp in small letters, not the {protocol:?} of {port:?}"))
        }
    }
}

/// Whether a Dockerfile exposes `port`, by any builder.
pub(super) fn are_set(file: &Image, port: &str) -> bool {
    let others = file.others.iter().filter_map(|other| other.reading.as_deref().ok());
    std::iter::once(file).chain(others).any(|image| image.ports.iter().any(|set| set.value == port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_opened_as_the_launcher_reads_them() {
        assert_eq!(opened("8080/tcp"), Ok((8080, "tcp")));
        assert_eq!(opened("65535/udp"), Ok((65535, "udp")));
        assert_eq!(opened("0/tcp"), Ok((0, "tcp")));
        for refused in [
            "8080",
            "8080/",
            "/tcp",
            "8080/sctp",
            "8080/TCP",
            "8080/tcp/udp",
            "8000-9000/tcp",
            "65536/tcp",
            "+80/tcp",
            "-1/tcp",
            "http/tcp",
            "0x50/tcp",
            "8_0/tcp",
            " 80/tcp",
            "80 /tcp",
            "80/tcp ",
            "010/tcp",
            "",
            "\u{0661}/tcp",
        ] {
            assert!(opened(refused).is_err(), "{refused:?}");
        }
    }
}
