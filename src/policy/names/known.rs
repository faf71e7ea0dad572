//! Variables that programs read, by the program.

use super::Danger;

/// A group of variables that some program reads, and what a person who sets one decides.
pub struct Known {
    /// The program that reads them.
    pub reader: &'static str,
    /// What they decide.
    pub(super) danger: Danger,
    /// Names in capitals, separated by blanks; one that ends in `*` stands for all that start so, one that starts with
    /// it for all that end so.
    names: &'static str,
}

/// Variables that give the operator access if they may set them; docs/policy.md has the same list.
pub const KNOWN: &[Known] = &[
    Known { reader: "codeseal", danger: Danger::Product, names: "CODESEAL_*" },
    Known {
        reader: "the dynamic loader and the C library",
        danger: Danger::Code,
        names: "LD_* DYLD_* GCONV_PATH GLIBC_TUNABLES MALLOC_* \
            LOCPATH NLSPATH GETCONF_DIR NSS_* PATH LIBPATH SHLIB_PATH GCOV_* LLVM_PROFILE_FILE ASAN_* LSAN_* \
            MSAN_* TSAN_* UBSAN_*",
    },
    Known {
        reader: "shells",
        danger: Danger::Code,
        names: "BASH_* ENV SHELL SHELLOPTS BASHOPTS PROMPT_COMMAND PS0 PS1 PS2 PS4 IFS CDPATH FPATH ZDOTDIR \
            GLOBIGNORE HISTFILE KSH_* POSIXLY_CORRECT INPUTRC LESSOPEN LESSCLOSE",
    },
    Known {
        reader: "programs that start another",
        danger: Danger::Code,
        names: "EDITOR VISUAL PAGER MANPAGER BROWSER LESS MORE TERMINFO* TERMCAP SUDO_ASKPASS SSH_ASKPASS* GIT_* \
            RSYNC_RSH CVS_RSH SVN_SSH MAKEFLAGS MAKEFILES GNUMAKEFLAGS CMAKE_* CC CXX CPP LD CFLAGS CXXFLAGS \
            LDFLAGS PKG_CONFIG*",
    },
    Known {
        reader: "Python",
        danger: Danger::Code,
        names: "PYTHON* VIRTUAL_ENV PIP_* UV_* POETRY_* CONDA_* DJANGO_SETTINGS_MODULE FLASK_* GUNICORN_CMD_ARGS \
            UVICORN_* WEB_CONCURRENCY CELERY_* MPLCONFIGDIR JUPYTER_* IPYTHONDIR NUMBA_* TORCH* PYTORCH_* \
            TRITON_* TF_* XLA_* JAX_* VLLM_* TRANSFORMERS_* TOKENIZERS_* SAFETENSORS_*",
    },
    Known {
        reader: "JavaScript",
        danger: Danger::Code,
        names: "NODE_* NPM_* YARN_* PNPM_* DENO_* BUN_* COREPACK_* TS_NODE_* ELECTRON_*",
    },
    Known {
        reader: "the Java virtual machine",
        danger: Danger::Code,
        names: "JAVA_* _JAVA_OPTIONS JDK_* JRE_HOME CLASSPATH JVM_* MAVEN_* GRADLE_* SBT_OPTS CATALINA_* \
            KAFKA_OPTS SPRING_* *_JAVA_OPTS SCALA_HOME GROOVY_* KOTLIN_*",
    },
    Known {
        reader: ".NET",
        danger: Danger::Code,
        names: "DOTNET_* COMPLUS_* CORECLR_* COR_* ASPNETCORE_* NUGET_* MONO_* POWERSHELL_* PSMODULEPATH",
    },
    Known { reader: "Perl", danger: Danger::Code, names: "PERL*" },
    Known {
        reader: "Ruby",
        danger: Danger::Code,
        names: "RUBY* GEM_* BUNDLE_* BUNDLER_* RAILS_* RACK_* IRBRC",
    },
    Known { reader: "PHP", danger: Danger::Code, names: "PHP* COMPOSER*" },
    Known {
        reader: "Lua, Tcl, R, Julia, Erlang, Guile, OCaml, Haskell, Emacs and Vim",
        danger: Danger::Code,
        names: "LUA_* LUAROCKS_* \
            TCLLIBPATH TCL_LIBRARY R_* JULIA_* ERL_* ERLC_* ELIXIR_* MIX_* GUILE_* OCAML* CAML_* GHC* EMACS* \
            VIMINIT VIM VIMRUNTIME EXINIT MYVIMRC GNUPGHOME OCTAVE_*",
    },
    Known {
        reader: "Go",
        danger: Danger::Code,
        names: "GODEBUG GOTRACEBACK GOFLAGS GOPATH GOROOT GOBIN GOENV GOPROXY GOSUMDB GONOSUMDB GONOSUMCHECK \
            GOINSECURE GOTOOLCHAIN GOMEMLIMIT GOGC GOCOVERDIR GRPC_*",
    },
    Known { reader: "Rust and C++ tools", danger: Danger::Code, names: "RUSTC* RUSTFLAGS RUSTUP_* CARGO*" },
    Known {
        reader: "GPU drivers and libraries",
        danger: Danger::Code,
        names: "CUDA_* NVIDIA_* NCCL_* CUDNN_* CUBLAS_* CUBLASLT_* NVSHMEM_* UCX_* OMPI_* PMIX_* OCL_* OPENCL_* \
            VK_* ROCR_* HIP_* HSA_* OMP_TOOL_LIBRARIES OMP_TOOL MKL_* OPENBLAS_* GGML_* LLAMA_* ONNX* \
            TENSORRT_*",
    },
    Known {
        reader: "telemetry that loads agents",
        danger: Danger::Address,
        names: "OTEL_* DD_* NEW_RELIC_* SENTRY_* ELASTIC_APM_* STATSD_* PROMETHEUS_* JAEGER_* WANDB_* MLFLOW_* \
            COMET_* NEPTUNE_*",
    },
    Known {
        reader: "proxies and name resolution",
        danger: Danger::Address,
        names: "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY FTP_PROXY SOCKS_PROXY *_PROXY CGI_HTTP_PROXY \
            RES_OPTIONS LOCALDOMAIN HOSTALIASES RESOLV_* RES_* HOSTNAME SOCKS_*",
    },
    Known {
        reader: "TLS libraries and HTTP clients",
        danger: Danger::Key,
        names: "OPENSSL_* SSL_* SSLKEYLOGFILE REQUESTS_CA_BUNDLE CURL_* CURLOPT_* WGETRC SYSTEM_CERTIFICATE_PATH \
            GNUTLS_* AIOHTTP_* HTTPX_* NETRC MBEDTLS_* AWS_LC_* P11_KIT_* PKCS11_* KRB5* GSS_*",
    },
    Known {
        reader: "cloud SDKs and clusters",
        danger: Danger::Address,
        names: "GOOGLE_* GCLOUD_* CLOUDSDK_* GCP_* GCE_* GCS_* STORAGE_EMULATOR_HOST *_EMULATOR_HOST AWS_* \
            AMAZON_* AZURE_* ARM_* MSI_* IDENTITY_* BOTO_* BOTO3_* OCI_* ALIBABA_* KUBECONFIG KUBERNETES_* \
            KUBE_* DOCKER_* CONTAINER_HOST CONTAINERD_* BUILDKIT_* BUILDAH_* PODMAN_* REGISTRY_* VAULT_* \
            CONSUL_* NOMAD_* TF_VAR_* TERRAFORM_* NO_GCE_CHECK METADATA_*",
    },
    Known {
        reader: "model hubs and inference APIs",
        danger: Danger::Address,
        names: "HF_* HUGGINGFACE_* HUGGING_FACE_* OPENAI_* ANTHROPIC_* OLLAMA_* MISTRAL_* GEMINI_* LITELLM_* \
            LANGCHAIN_* LANGSMITH_* KAGGLE_* MODELSCOPE_*",
    },
    Known {
        reader: "databases and brokers",
        danger: Danger::Address,
        names: "PGHOST* PGPORT PGSERVICE* PGSYSCONFDIR PGSSL* PGPASS* PGOPTIONS PGUSER PGDATABASE MYSQL_* \
            MARIADB_* REDIS_* MONGO* DATABASE_* SQLITE_* ODBC* RABBITMQ_* AMQP_* KAFKA_* NATS_*",
    },
    Known {
        reader: "remote shells and agents",
        danger: Danger::Key,
        names: "SSH_* GPG_* DBUS_* XAUTHORITY DISPLAY WAYLAND_DISPLAY",
    },
    Known {
        reader: "systemd and supervisors",
        danger: Danger::Path,
        names: "NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES WATCHDOG_* CREDENTIALS_DIRECTORY \
            STATE_DIRECTORY RUNTIME_DIRECTORY XDG_* S6_*",
    },
    Known {
        reader: "everything",
        danger: Danger::Path,
        names: "HOME TMP TEMP TEMPDIR TMPDIR PWD OLDPWD TZDIR USER LOGNAME",
    },
];

impl Known {
    /// The names, and patterns with `*` at one end.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.split_whitespace()
    }

    /// Whether `name`, in capitals, is one of them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names().any(|pattern| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
            (Some(start), _) => name.starts_with(start),
            (None, Some(end)) => name.ends_with(end),
            (None, None) => name == pattern,
        })
    }

    /// What a person who sets one of them decides, in words.
    pub fn decides(&self) -> &'static str {
        self.danger.decides()
    }
}
