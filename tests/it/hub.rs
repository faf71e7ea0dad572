//! Model sources against loopback servers.

mod fake;

use std::path::{Path, PathBuf};
use std::time::Duration;

use codeseal::hub::{FetchOptions, HubError, Manifest, ModelSource, fetch, lock};
use codeseal::model::LayoutError;
use codeseal::secret::Secret;

use self::fake::{COMMIT, Fault, GS, HF, WEIGHTS, World, files, write_model};

#[tokio::test]
async fn an_unpinned_model_is_resolved_listed_and_fetched() {
    for source in [HF, GS] {
        let world = World::start().await;
        let directory = world.fetch(source, "version = 1").await.unwrap();
        world.assert_complete(&directory);
        assert_eq!(world.cached().len(), 4);
        let requests = world.take_requests();
        assert!(requests.iter().all(|request| request.ends_with("token=-")), "{requests:?}");
    }
}

#[tokio::test]
async fn a_pinned_model_in_the_cache_needs_no_network() {
    for source in [HF, GS] {
        let world = World::start().await;
        let manifest = world.manifest(source);
        let first = world.fetch(source, &manifest).await.unwrap();
        world.assert_complete(&first);
        assert!(!world.take_requests().is_empty());
        let mut options = world.options(&manifest);
        options.require_locked = true;
        assert_eq!(fetch(&source.parse().unwrap(), &options).await.unwrap(), first);
        assert_eq!(world.take_requests(), [""; 0]);
    }
}

#[tokio::test]
async fn a_cached_file_that_was_changed_is_fetched_again() {
    let world = World::start().await;
    let manifest = world.manifest(HF);
    let directory = world.fetch(HF, &manifest).await.unwrap();
    std::fs::write(directory.join("config.json"), "[]").unwrap();
    std::fs::write(directory.join("model.safetensors.index.json"), "{}").unwrap();
    world.take_requests();
    world.fetch(HF, &manifest).await.unwrap();
    world.assert_complete(&directory);
    assert_eq!(world.cached().len(), 4);
    assert!(world.take_requests().iter().all(|request| request.contains("/config.json")));
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_bucket() {
    let world = World::start().await;
    for (source, expected) in [(HF, "token=Bearer hf_canary"), (GS, "token=-")] {
        let mut options = world.options("version = 1");
        options.hugging_face_token = Some(Secret::new("hf_canary\n".to_owned()));
        assert!(!format!("{options:?}").contains("canary"));
        fetch(&source.parse().unwrap(), &options).await.unwrap();
        let requests = world.take_requests();
        assert!(requests.iter().all(|request| request.ends_with(expected)), "{requests:?}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_the_token() {
    let (world, other) = (World::start().await, World::start().await);
    world.set(Fault::Redirect(reqwest::Url::parse(&other.endpoint).unwrap().port().unwrap()));
    let mut options = world.options(&world.manifest(HF));
    options.hugging_face_token = Some(Secret::new("hf_canary".to_owned()));
    world.assert_complete(&fetch(&HF.parse().unwrap(), &options).await.unwrap());
    let requests = other.take_requests();
    assert!(requests.len() >= 4, "{requests:?}");
    assert!(requests.iter().all(|request| request.ends_with("token=-")), "{requests:?}");
}

#[tokio::test]
async fn a_listing_is_not_continued_at_another_host() {
    let (world, other) = (World::start().await, World::start().await);
    world.set(Fault::ForeignPage(reqwest::Url::parse(&other.endpoint).unwrap().port().unwrap()));
    let mut options = world.options("version = 1");
    options.hugging_face_token = Some(Secret::new("hf_canary".to_owned()));
    let error = fetch(&HF.parse().unwrap(), &options).await.unwrap_err();
    assert!(matches!(error, HubError::Unreadable), "{error}");
    assert_eq!(other.take_requests(), [""; 0]);
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_refused_and_not_shown() {
    let world = World::start().await;
    let mut options = world.options("version = 1");
    options.hugging_face_token = Some(Secret::new("hf_\ncanary".to_owned()));
    let error = fetch(&HF.parse().unwrap(), &options).await.unwrap_err();
    assert!(matches!(error, HubError::Token), "{error}");
    assert!(!error.to_string().contains("canary"), "{error}");
    assert_eq!(world.take_requests(), [""; 0]);
}

#[tokio::test]
async fn bytes_other_than_the_pinned_ones_are_refused_and_not_kept() {
    for source in [HF, GS] {
        let world = World::start().await;
        world.set(Fault::Swap);
        let error = world.fetch(source, &world.manifest(source)).await.unwrap_err();
        assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == WEIGHTS), "{error}");
        assert!(!world.cached().iter().any(|name| name.starts_with(WEIGHTS)), "{:?}", world.cached());
    }
}

#[tokio::test]
async fn a_bucket_is_held_to_the_checksums_that_it_lists() {
    let world = World::start().await;
    world.set(Fault::Swap);
    let error = world.fetch(GS, "version = 1").await.unwrap_err();
    assert!(matches!(error, HubError::Mismatch { .. }), "{error}");
    assert!(!world.cached().iter().any(|name| name.starts_with(WEIGHTS)), "{:?}", world.cached());
}

#[tokio::test]
async fn an_error_page_is_never_a_model_file() {
    for (source, status, attempts) in [(HF, 403, 1), (HF, 500, 5), (GS, 403, 1), (GS, 500, 5)] {
        let world = World::start().await;
        world.set(Fault::Page(status));
        let error = world.fetch(source, &world.manifest(source)).await.unwrap_err();
        assert!(matches!(error, HubError::Status { status: found } if found == status), "{error}");
        assert_eq!(world.cached(), [""; 0]);
        let gets = world.take_requests().iter().filter(|request| request.starts_with("GET")).count();
        assert_eq!(gets, attempts, "{source} {status}");
    }
}

#[tokio::test]
async fn a_short_body_is_completed_or_refused() {
    for source in [HF, GS] {
        let world = World::start().await;
        let manifest = world.manifest(source);
        world.set(Fault::Short(0));
        let error = world.fetch(source, &manifest).await.unwrap_err();
        assert!(matches!(error, HubError::Truncated), "{error}");
        assert!(world.cached().iter().all(|name| name.ends_with(".part")), "{:?}", world.cached());
        // Each try brings a third of the file.
        world.set(Fault::Short(1400));
        world.assert_complete(&world.fetch(source, &manifest).await.unwrap());
    }
}

#[tokio::test]
async fn a_download_that_hangs_is_resumed_where_it_was() {
    for source in [HF, GS] {
        let world = World::start().await;
        world.set(Fault::HangOnceAfter(1000));
        let mut options = world.options(&world.manifest(source));
        options.limits.stall = Duration::from_millis(300);
        let directory = fetch(&source.parse().unwrap(), &options).await.unwrap();
        world.assert_complete(&directory);
        let requests = world.take_requests();
        assert!(requests.iter().any(|request| request.contains("range=bytes=1000-")), "{requests:?}");
    }
}

#[tokio::test]
async fn a_part_of_another_file_and_a_server_without_ranges_only_cost_a_restart() {
    for (source, fault) in [(HF, None), (GS, None), (HF, Some(Fault::NoRanges)), (GS, Some(Fault::NoRanges))]
    {
        for part in [vec![1; 1000], vec![1; 9000]] {
            let world = World::start().await;
            let manifest = world.manifest(source);
            let directory = world.fetch(source, &manifest).await.unwrap();
            std::fs::remove_file(directory.join(WEIGHTS)).unwrap();
            std::fs::write(directory.join(format!("{WEIGHTS}.part")), part).unwrap();
            world.set(fault);
            world.fetch(source, &manifest).await.unwrap();
            world.assert_complete(&directory);
        }
    }
}

#[tokio::test]
async fn a_source_that_is_not_there_is_not_found() {
    let world = World::start().await;
    for source in ["hf://owner/other", "hf://owner/model@dev", "gs://other/prefix"] {
        let error = world.fetch(source, "version = 1").await.unwrap_err();
        assert!(matches!(error, HubError::NotFound), "{source}: {error}");
    }
    world.fake.files.lock().unwrap().remove(WEIGHTS);
    for source in [HF, GS] {
        let error = world.fetch(source, "version = 1").await.unwrap_err();
        assert!(matches!(error, HubError::Layout(LayoutError::NoWeights)), "{error}");
    }
    assert_eq!(world.cached(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_that_names_no_address() {
    let world = World::start().await;
    let mut options = world.options("version = 1");
    // Port 9 of loopback: no server listens there.
    options.endpoints.hugging_face = "http://127.0.0.1:9".to_owned();
    options.endpoints.cloud_storage = "http://127.0.0.1:9".to_owned();
    for source in [HF, GS] {
        let error = fetch(&source.parse().unwrap(), &options).await.unwrap_err();
        assert!(matches!(error, HubError::Unreachable), "{error}");
        assert!(!error.to_string().contains("127"), "{error}");
    }
}

#[tokio::test]
async fn only_one_process_fills_a_cache() {
    let world = World::start().await;
    let manifest = world.manifest(GS);
    let directory = world.fetch(GS, &manifest).await.unwrap();
    let other = std::fs::File::open(directory.join(".lock")).unwrap();
    other.lock().unwrap();
    assert!(matches!(world.fetch(GS, &manifest).await, Err(HubError::Busy)));
    drop(other);
    world.fetch(GS, &manifest).await.unwrap();
}

#[tokio::test]
async fn an_unlocked_model_is_refused_where_locked_ones_are_required() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    let partial = format!(
        "version = 1\n[[model]]\nsource = \"{HF}\"\ndtype = \"bf16\"\n\
         [[model.file]]\nname = \"{WEIGHTS}\"\nunlocked = true\n"
    );
    for manifest in ["version = 1", &partial] {
        for source in [HF, GS, local.to_str().unwrap()] {
            let mut options = world.options(manifest);
            options.require_locked = true;
            let error = fetch(&source.parse().unwrap(), &options).await.unwrap_err();
            assert!(matches!(error, HubError::NotLocked), "{source}: {error}");
        }
    }
    assert_eq!(world.take_requests(), [""; 0]);
}

#[tokio::test]
async fn a_local_directory_needs_no_network_and_no_manifest() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    std::fs::write(local.join("README.md"), "not a model file").unwrap();
    assert_eq!(world.fetch(local.to_str().unwrap(), "version = 1").await.unwrap(), local);
    std::fs::remove_file(local.join("tokenizer.json")).unwrap();
    let error = world.fetch(local.to_str().unwrap(), "version = 1").await.unwrap_err();
    assert!(matches!(error, HubError::Missing { ref file } if file.as_str() == "tokenizer.json"), "{error}");
    assert_eq!(world.take_requests(), [""; 0]);
    assert_eq!(world.cached(), [""; 0]);
}

#[tokio::test]
async fn a_model_that_the_manifest_knows_is_recognised_wherever_it_lies() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    let mut options = world.options(&world.manifest(HF));
    options.require_locked = true;
    let source = ModelSource::Directory(local.clone());
    fetch(&source, &options).await.unwrap();

    // The right weights with another configuration are a forgery, locked or not.
    std::fs::write(local.join("config.json"), "[]").unwrap();
    options.require_locked = false;
    let error = fetch(&source, &options).await.unwrap_err();
    assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == "config.json"), "{error}");
    std::fs::write(local.join("config.json"), "{}").unwrap();

    // And so is a file that the manifest does not know.
    std::fs::write(local.join("model.safetensors.index.json"), "{}").unwrap();
    let error = fetch(&source, &options).await.unwrap_err();
    assert!(matches!(error, HubError::Mismatch { .. }), "{error}");
    std::fs::remove_file(local.join("model.safetensors.index.json")).unwrap();

    // But for one that the model is not read from.
    std::fs::write(local.join("tokenizer_config.json"), "{}").unwrap();
    fetch(&source, &options).await.unwrap();

    // Other weights of the same length are another model: fine unless a locked one is required.
    let mut weights = files()[WEIGHTS].clone();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(local.join(WEIGHTS), weights).unwrap();
    fetch(&source, &options).await.unwrap();
    options.require_locked = true;
    assert!(matches!(fetch(&source, &options).await, Err(HubError::NotLocked)));
}

#[tokio::test]
async fn what_lock_writes_fetch_accepts_and_a_flipped_byte_is_refused() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    let path = world.directory.path().join("manifest.toml");
    std::fs::write(&path, "# head\nversion = 1\n\n# about the model\n[[model]]\nsource = \"hf://owner/model\"\ndtype = \"f32\"\n").unwrap();
    for source in [HF, GS, local.to_str().unwrap()] {
        let source: ModelSource = source.parse().unwrap();
        lock(&source, &world.options("version = 1"), &path).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# head\nversion = 1\n\n# about the model\n[[model]]\n"), "{text}");

        let mut options = world.options(&text);
        options.require_locked = true;
        let directory = fetch(&source, &options).await.unwrap();
        lock(&source, &world.options("version = 1"), &path).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "locking twice changes nothing");

        let mut weights = files()[WEIGHTS].clone();
        weights[2000] ^= 1;
        std::fs::write(directory.join(WEIGHTS), weights).unwrap();
        world.set(Fault::Swap);
        let error = fetch(&source, &options).await.unwrap_err();
        assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == WEIGHTS), "{error}");
        world.set(None);
    }
    let manifest: Manifest = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let sources: Vec<_> = manifest.models().iter().map(|entry| entry.source.to_string()).collect();
    assert_eq!(sources, [&format!("{HF}@{COMMIT}"), GS, local.to_str().unwrap()]);
    assert!(manifest.models().iter().all(|entry| entry.is_locked() && entry.dtype.as_str() == "bf16"));
}

#[tokio::test]
async fn a_manifest_that_does_not_parse_is_not_overwritten() {
    let world = World::start().await;
    let path = world.directory.path().join("manifest.toml");
    std::fs::write(&path, "version = 1\nsurprise = true\n").unwrap();
    let error = lock(&HF.parse().unwrap(), &world.options("version = 1"), &path).await.unwrap_err();
    assert!(matches!(error, HubError::Manifest(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "version = 1\nsurprise = true\n");
}

#[tokio::test]
async fn the_manifest_pins_the_small_model_as_it_is() {
    let copy = tempfile::NamedTempFile::new().unwrap();
    let text = std::fs::read_to_string("models/manifest.toml").unwrap();
    std::fs::write(copy.path(), &text).unwrap();
    let source: ModelSource = "models/tiny".parse().unwrap();
    let mut options = FetchOptions::new(PathBuf::new(), Manifest::built_in().unwrap());
    lock(&source, &options, copy.path()).await.unwrap();
    let locked = std::fs::read_to_string(copy.path()).unwrap();
    assert_eq!(locked, text, "run: codeseal-server models lock --manifest models/manifest.toml models/tiny");
    options.require_locked = true;
    fetch(&source, &options).await.unwrap();
    // Wherever it lies, as in an image.
    fetch(&ModelSource::Directory(Path::new("models/tiny").canonicalize().unwrap()), &options).await.unwrap();
}

#[tokio::test]
async fn gguf_files_of_any_name_and_their_parts_are_fetched_locked_and_verified() {
    let gguf = |content: &str| format!("GGUF{content}").into_bytes();
    for names in [&["codegemma-2b-Q4_K_M.gguf"][..], &["cg-00001-of-00002.gguf", "cg-00002-of-00002.gguf"]] {
        let world = World::start().await;
        {
            let mut files = world.fake.files.lock().unwrap();
            files.remove(WEIGHTS);
            files.extend(names.iter().map(|name| (*name, gguf(name))));
        }
        let path = world.directory.path().join("manifest.toml");
        for source in [HF, GS] {
            let source: ModelSource = source.parse().unwrap();
            lock(&source, &world.options("version = 1"), &path).await.unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.contains("dtype = \"gguf\"") && names.iter().all(|name| text.contains(name)),
                "{text}"
            );
            let mut options = world.options(&text);
            options.require_locked = true;
            world.assert_complete(&fetch(&source, &options).await.unwrap());
        }
        // The same on disk: the directory, and the file by itself.
        let local = world.directory.path().join("local");
        write_model(&local);
        std::fs::remove_file(local.join(WEIGHTS)).unwrap();
        names.iter().for_each(|name| std::fs::write(local.join(name), gguf(name)).unwrap());
        for place in [local.clone(), local.join(names[0])] {
            let mut options = world.options(&std::fs::read_to_string(&path).unwrap());
            options.require_locked = true;
            let source = ModelSource::Directory(place.clone());
            assert_eq!(fetch(&source, &options).await.unwrap(), place);
            lock(&source, &world.options("version = 1"), &path).await.unwrap();
            std::fs::write(local.join(names[0]), gguf("another of the same")).unwrap();
            let mut options = world.options(&std::fs::read_to_string(&path).unwrap());
            options.require_locked = true;
            let error = fetch(&source, &options).await.unwrap_err();
            assert!(matches!(error, HubError::Mismatch { ref file } if file.as_str() == names[0]), "{error}");
            std::fs::write(local.join(names[0]), gguf(names[0])).unwrap();
        }
        // Part of it, or one model more.
        world.fake.files.lock().unwrap().insert("other.gguf", gguf("other"));
        let error = world.fetch(HF, "version = 1").await.unwrap_err();
        assert!(matches!(error, HubError::Layout(LayoutError::SeveralGguf(_))), "{error}");
        assert!(error.to_string().contains("other.gguf") && error.to_string().contains(names[0]), "{error}");
    }
}

#[tokio::test]
async fn a_local_model_that_cannot_be_read_is_refused_as_the_loader_does() {
    let world = World::start().await;
    let local = world.directory.path().join("model");
    write_model(&local);
    std::fs::write(local.join("config.json"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let refused =
        async |path: &Path| world.fetch(path.to_str().unwrap(), "version = 1").await.unwrap_err().to_string();
    let error = refused(&local).await;
    assert!(error.starts_with("config.json ") && error.contains("git lfs pull"), "{error}");
    let error = refused(&local.join("gone")).await;
    assert!(error.contains("gone") && error.contains("no such path"), "{error}");
}
