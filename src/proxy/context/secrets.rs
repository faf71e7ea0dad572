//! What looks like a secret, by its name or by what is in it. A file too many is better left out than one too few.
//!
//! Pure.

/// Names of files and directories, in lower case.
const NAMES: &[&str] = &[
    ".aws",
    ".azure",
    ".docker",
    ".env",
    ".gnupg",
    ".kube",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".ssh",
    "_netrc",
    "authorized_keys",
    "credentials",
    "htpasswd",
    "known_hosts",
    "kubeconfig",
    "passwd",
    "password",
    "passwords",
    "private",
    "secret",
    "secrets",
    "shadow",
    "token",
    "tokens",
    "vault",
    "wallet.dat",
];
/// What a name begins with.
const BEGINNINGS: &[&str] =
    &[".env", "credentials", "env.", "id_", "secret", "service-account", "service_account"];
/// What a name ends with.
const ENDINGS: &[&str] = &[
    ".asc",
    ".cer",
    ".crt",
    ".der",
    ".env",
    ".gpg",
    ".jks",
    ".kdb",
    ".kdbx",
    ".key",
    ".keystore",
    ".ovpn",
    ".p12",
    ".p8",
    ".pem",
    ".pfx",
    ".pgp",
    ".ppk",
    ".tfstate",
    ".tfvars",
    ".token",
];
/// What keys of well-known services, and keys in files, begin with.
const CONTENTS: &[&str] = &[
    "PRIVATE KEY-----",
    "PRIVATE KEY BLOCK-----",
    "AKIA",
    "ASIA",
    "AIza",
    "eyJhbGciOi",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hf_",
    "sk-",
    "sk_live_",
    "xoxb-",
    "xoxp-",
    "npm_",
    "AccountKey=",
    "\"private_key\"",
];
/// A key that begins with one of these has at least this many characters.
const MIN_KEY_CHARS: usize = 16;
/// What a secret value is assigned to.
const VALUES: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "private_key",
    "credential",
];

/// Whether a path of `components` names a secret.
pub(super) fn names(path: &str) -> bool {
    path.split('/').any(|name| {
        let name = name.to_ascii_lowercase();
        let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
        NAMES.contains(&name.as_str())
            // Sources about secrets are as good as secrets: their names do not tell which it is.
            || NAMES.contains(&stem)
            || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
            || ENDINGS.iter().any(|ending| name.ends_with(ending))
    })
}

/// Whether `text` holds something that looks like a secret.
pub(super) fn holds(text: &str) -> bool {
    CONTENTS.iter().any(|mark| text.match_indices(mark).any(|(at, _)| is_key(text, at, mark)))
        || text.lines().any(assigns)
}

/// Whether a key begins at `at`, rather than a word that has `mark` in it.
fn is_key(text: &str, at: usize, mark: &str) -> bool {
    if mark.contains(['-', '"', '='])
        && !mark.starts_with("sk-")
        && !mark.starts_with("xox")
        && mark != "glpat-"
    {
        return true;
    }
    let in_word =
        text.get(..at).and_then(|before| before.chars().next_back()).is_some_and(char::is_alphanumeric);
    let rest = text.get(at..).unwrap_or_default();
    let key = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).count();
    !in_word && key >= MIN_KEY_CHARS
}

/// Whether the line gives something that is called a secret a long literal value.
fn assigns(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    if !VALUES.iter().any(|name| lower.contains(name)) {
        return false;
    }
    let literals = ['"', '\'', '`'].into_iter().flat_map(|quote| line.split(quote).skip(1).step_by(2));
    // Settings files have values without quotes.
    let value = line.split_once(['=', ':']).map_or("", |(_, value)| value.trim());
    let bare =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.' | '!' | '#');
    let bare = Some(value).filter(|value| value.chars().all(bare));
    literals.chain(bare).any(|literal| {
        let plain = !literal.contains(char::is_whitespace) && literal.is_ascii();
        let mixed = literal.contains(|c: char| c.is_ascii_digit())
            && literal.contains(|c: char| c.is_ascii_alphabetic());
        literal.len() >= 12 && plain && mixed && !literal.contains(['{', '$', '<'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_names() {
        for path in [
            ".env",
            ".env.local",
            "prod.env",
            "env.production",
            "deploy/server.pem",
            "a/b.KEY",
            "id_rsa",
            "id_ed25519.pub",
            "config/credentials.json",
            "config/secrets.yml",
            "secrets/readme.txt",
            "home/.ssh/config",
            "x.tfvars",
            "Service-Account-prod.json",
            "token.txt",
            "store.p12",
            "Passwords.txt",
        ] {
            assert!(names(path), "{path}");
        }
        for path in [
            "src/main.rs",
            "a/environment.py",
            "keyboard.c",
            "src/tokenizer.rs",
            "src/keys/cache.rs",
            "idle.rs",
        ] {
            assert!(!names(path), "{path}");
        }
    }

    #[test]
    fn secrets_are_told_by_what_is_in_a_file() {
        let key = "0123456789abcdefABCD";
        for text in [
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE".to_owned(),
            format!("aws = 'AKIA{key}'"),
            format!("x = \"ghp_{key}\""),
            format!("Authorization: Bearer sk-{key}"),
            "db_password = 'correct7horse9battery'".to_owned(),
            "API_KEY: \"a1b2c3d4e5f6g7\"".to_owned(),
            "smtp_password = correct7horse9battery".to_owned(),
        ] {
            assert!(holds(&text), "{text}");
        }
        for text in [
            "def token_count(text):\n    return len(text.split('x'))\n",
            "password = os.environ['DATABASE_PASSWORD']",
            "let asked = task_list(ask-me);",
            "let secret = Secret::new(String::from(\"hunter2\"));",
        ] {
            assert!(!holds(text), "{text}");
        }
    }
}
