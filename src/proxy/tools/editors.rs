//! Working configuration for each editor, with the proxy's own address and token in it.

use clap::ValueEnum;

/// The editors that there is a configuration for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Editor {
    /// Vim with llama.vim.
    Vim,
    /// Neovim with llama.vim.
    Neovim,
    /// VS Code with llama.vscode.
    Vscode,
    /// Continue, in VS Code or a JetBrains editor.
    Continue,
    /// Zed.
    Zed,
    /// Emacs with minuet.
    Emacs,
    /// JupyterLab with CellSense.
    Jupyter,
    /// Tabby's agent, for all editors that it knows.
    Tabby,
    /// The command-line tool `llm`.
    Llm,
    /// aider; chat only.
    Aider,
}

/// A configuration.
#[derive(Debug)]
pub(super) struct Snippet {
    /// Where it belongs, for people.
    pub(super) place: &'static str,
    /// What begins a comment there.
    pub(super) comment: &'static str,
    /// Whether it goes into the one object of a JSON file.
    pub(super) in_object: bool,
    /// A line that may be there only once.
    pub(super) unique: Option<&'static str>,
    /// The text, ending with a line end.
    pub(super) text: String,
}

/// What clients that insist on a key are given when the proxy wants none.
const NO_KEY: &str = "none";

/// The configuration of `editor` for the proxy at `url`, such as `http://127.0.0.1:8012`.
pub(super) fn snippet(editor: Editor, url: &str, token: Option<&str>) -> Snippet {
    let key = token.unwrap_or(NO_KEY);
    match editor {
        Editor::Vim => Snippet {
            place: "~/.vimrc, before llama.vim (github.com/ggml-org/llama.vim) is loaded",
            comment: "\"",
            in_object: false,
            unique: None,
            text: format!(
                "let g:llama_config = {{\n    \\ 'endpoint_fim': '{url}/infill',\n    \\ 'endpoint': '{url}/infill',\n    \
                 \\ 'api_key': '{}',\n    \\ 'auto_fim': v:true,\n    \\ }}\n",
                token.unwrap_or_default()
            ),
        },
        Editor::Neovim => Snippet {
            place: "~/.config/nvim/init.lua, before llama.vim (github.com/ggml-org/llama.vim) is loaded",
            comment: "--",
            in_object: false,
            unique: None,
            text: format!(
                "vim.g.llama_config = {{\n  endpoint_fim = '{url}/infill',\n  endpoint = '{url}/infill',\n  \
                 api_key = '{}',\n  auto_fim = true,\n}}\n",
                token.unwrap_or_default()
            ),
        },
        Editor::Vscode => Snippet {
            place: "settings.json of VS Code, with the extension ggml-org.llama-vscode",
            comment: "//",
            in_object: true,
            unique: None,
            text: format!(
                "  \"llama-vscode.endpoint\": \"{url}\",\n  \"llama-vscode.api_key\": \"{}\",\n",
                token.unwrap_or_default()
            ),
        },
        Editor::Continue => Snippet {
            place: "~/.continue/config.yaml",
            comment: "#",
            in_object: false,
            unique: Some("models:"),
            text: format!(
                "models:\n  - name: codeseal\n    provider: openai\n    model: codegemma-2b\n    apiBase: {url}/v1\n    \
                 apiKey: {key}\n    roles:\n      - autocomplete\n    autocompleteOptions:\n      debounceDelay: 150\n      \
                 modelTimeout: 2000\n"
            ),
        },
        Editor::Zed => Snippet {
            place: "~/.config/zed/settings.json; a token goes into the provider's API key in Zed's settings page",
            comment: "//",
            in_object: true,
            unique: Some("\"edit_predictions\":"),
            text: format!(
                "  \"edit_predictions\": {{\n    \"provider\": \"open_ai_compatible_api\",\n    \
                 \"open_ai_compatible_api\": {{\n      \"api_url\": \"{url}/v1/completions\",\n      \
                 \"model\": \"codegemma-2b\",\n      \"max_output_tokens\": 64\n    }}\n  }},\n"
            ),
        },
        Editor::Emacs => Snippet {
            place: "~/.emacs.d/init.el, with the package minuet",
            comment: ";;",
            in_object: false,
            unique: None,
            text: format!(
                "(with-eval-after-load 'minuet\n  (setq minuet-provider 'openai-fim-compatible)\n  \
                 (setq minuet-n-completions 1)\n  \
                 (plist-put minuet-openai-fim-compatible-options :name \"codeseal\")\n  \
                 (plist-put minuet-openai-fim-compatible-options :end-point \"{url}/v1/completions\")\n  \
                 (plist-put minuet-openai-fim-compatible-options :model \"codegemma-2b\")\n  \
                 (plist-put minuet-openai-fim-compatible-options :api-key (lambda () \"{key}\"))\n  \
                 (minuet-set-optional-options minuet-openai-fim-compatible-options :max_tokens 64))\n"
            ),
        },
        Editor::Jupyter => Snippet {
            place: "~/.jupyter/jupyter_server_config.py, with the package jupyterlab-cellsense",
            comment: "#",
            in_object: false,
            unique: None,
            text: format!(
                "# The model's name chooses the markers: those of the family qwen are CodeGemma's as well.\n\
                 c.CellSenseApp.provider_type = \"openai_compatible\"\nc.CellSenseApp.provider_base_url = \"{url}\"\n\
                 c.CellSenseApp.provider_api_key = \"{key}\"\nc.CellSenseApp.provider_model = \"qwen2.5-coder\"\n\
                 c.CellSenseApp.max_completion_tokens = 64\nc.CellSenseApp.stream_timeout_ms = 5000\n"
            ),
        },
        Editor::Tabby => Snippet {
            place: "~/.tabby-client/agent/config.toml",
            comment: "#",
            in_object: false,
            unique: Some("[server]"),
            text: format!(
                "[server]\nendpoint = \"{url}\"\ntoken = \"{key}\"\n\n\
                 # The agent sends usage events to Tabby's makers unless this is set.\n\
                 [anonymousUsageTracking]\ndisable = true\n"
            ),
        },
        Editor::Llm => Snippet {
            place: "extra-openai-models.yaml in the directory that `dirname \"$(llm logs path)\"` prints",
            comment: "#",
            in_object: false,
            unique: None,
            text: format!(
                "- model_id: codeseal\n  model_name: codegemma-2b\n  api_base: \"{url}/v1\"\n  completion: true\n{}",
                // llm sends no key to another base URL unless the model names one.
                if token.is_some() {
                    "  # The proxy's token: llm keys set codeseal\n  api_key_name: codeseal\n"
                } else {
                    ""
                }
            ),
        },
        Editor::Aider => Snippet {
            place: "~/.aider.conf.yml; aider chats, so the server's model must be an instruction model",
            comment: "#",
            in_object: false,
            unique: None,
            text: format!("openai-api-base: {url}/v1\nopenai-api-key: {key}\nmodel: openai/codegemma\n"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_editor_gets_the_address_and_the_token() {
        for &editor in Editor::value_variants() {
            let snippet = snippet(editor, "http://127.0.0.1:8099", Some("a-token-of-some-length"));
            assert!(snippet.text.contains("http://127.0.0.1:8099"), "{editor:?}");
            // These two keep keys elsewhere.
            let apart = matches!(editor, Editor::Llm | Editor::Zed);
            assert_eq!(snippet.text.contains("a-token-of-some-length"), !apart, "{editor:?}");
            assert!(snippet.text.ends_with('\n') && !snippet.place.is_empty());
        }
    }
}
