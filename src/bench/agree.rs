//! `kernels-check`: whether our kernels agree with candle on a model's first layers, and on a CUDA device also what
//! [`super::check`] looks at.

use std::io::Write;

use super::check::{Check, Checks, Extent, check};
use super::{BenchError, CheckConfig, files};
use crate::engine::{Agreement, OpenError, StartError, Witness};
use crate::model::{ModelError, ModelFiles, Place, Quantize};
use codeseal_kernels::cpu::Level;
use codeseal_kernels::cuda::{CudaDevice, Device, DeviceError};

/// Checks the kernels, and writes the report to `stdout`. Blocks meanwhile.
///
/// # Errors
/// The device cannot be opened, the model cannot be read, or a check fails.
pub fn run_checks(config: &CheckConfig, stdout: &mut impl Write) -> Result<(), BenchError> {
    run_checks_on(config, CudaDevice::open, &Extent::DEVICE, stdout)
}

/// As [`run_checks`], with devices that `open` opens by their numbers, and models and texts as large as `extent`.
///
/// # Errors
/// As [`run_checks`].
pub fn run_checks_on<D: Device + 'static>(
    config: &CheckConfig,
    open: fn(usize) -> Result<D, DeviceError>,
    extent: &Extent,
    stdout: &mut impl Write,
) -> Result<(), BenchError> {
    let checks = match config.device {
        None => {
            let device = format!("cpu {}", Level::best().name());
            let place = Place::cpu().map_err(ModelError::from)?;
            Checks { device, checks: agreements(config, place, Witness::cpu)? }
        }
        Some(number) => {
            let open = || open(number);
            // Without a device no model is read.
            drop(open().map_err(ModelError::from)?);
            // Where candle has no CUDA, its CPU checks the kernels, as with --backend auto.
            let place = Place::cuda(number).or_else(|_| Place::cpu()).map_err(ModelError::from)?;
            let agreements = agreements(config, place, |witness, kind| witness.device(open()?, kind))?;
            let Checks { device, checks } = check(open, extent)?;
            Checks { device, checks: agreements.into_iter().chain(checks).collect() }
        }
    };
    checks.write(config.json, stdout)?;
    if checks.passed() { Ok(()) } else { Err(BenchError::WrongDevice) }
}

/// Compares kernels and candle at `place` with each type of weights. An error of `compare` is a check that failed: the others
/// are made all the same.
fn agreements(
    config: &CheckConfig,
    place: Place,
    compare: impl Fn(&mut Witness, Quantize) -> Result<Agreement, StartError>,
) -> Result<Vec<Check>, BenchError> {
    let (name, files) = config.weights.as_ref().map_or_else(|| Ok(ModelFiles::small()?), files)?;
    let place_name = place.name().to_owned();
    let mut witness = Witness::open(&files, place).map_err(OpenError::from)?;
    let checked = [Quantize::None, Quantize::Q8_0, Quantize::Q4K].map(|quantize| {
        let agreement = compare(&mut witness, quantize);
        let name = format!(
            "{name}, first {} layers, weights {}: logits are those of candle on {place_name}",
            witness.layers(),
            quantize.as_str()
        );
        as_check(name, agreement)
    });
    Ok(checked.into())
}

fn as_check(name: String, agreement: Result<Agreement, StartError>) -> Check {
    let bound = Some(Agreement::BOUND);
    let (difference, failure) = match agreement {
        Ok(agreement) if agreement.is_within_bound() => (agreement.difference(), None),
        Ok(Agreement::Difference(difference)) if difference.is_finite() => {
            (Some(difference), Some(format!("a logit is off by {difference:.3} of their size")))
        }
        Ok(Agreement::Difference(_)) => (None, Some("a logit is not a number".to_owned())),
        Ok(Agreement::Failure(reason)) => (None, Some(reason)),
        Err(error) => (None, Some(error.to_string())),
    };
    Check { name, difference, bound, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: Option<usize>) -> CheckConfig {
        CheckConfig { device, weights: None, json: true }
    }

    #[test]
    fn random_weights_in_the_small_models_shape_agree_too() {
        let (name, files) = ModelFiles::small_random().unwrap();
        assert_eq!(name, "random weights");
        let mut witness = Witness::open(&files, Place::cpu().unwrap()).unwrap();
        for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
            let agreement = witness.cpu(quantize).unwrap();
            assert!(agreement.is_within_bound(), "{quantize:?}: {agreement:?}");
        }
    }

    #[test]
    fn what_does_not_agree_is_a_check_that_failed_and_the_others_are_made() {
        let outcomes = |agreement: fn() -> Result<Agreement, StartError>| {
            let checks = agreements(&config(None), Place::cpu().unwrap(), |_, _| agreement()).unwrap();
            assert_eq!(checks.len(), 3);
            checks.into_iter().next().unwrap()
        };
        let sound = outcomes(|| Ok(Agreement::Difference(0.02)));
        assert_eq!(
            (sound.difference, sound.bound, sound.failure),
            (Some(0.02), Some(Agreement::BOUND), None)
        );
        let wrong = outcomes(|| Ok(Agreement::Difference(4.25)));
        assert_eq!((wrong.difference, wrong.failure.unwrap().contains("4.250")), (Some(4.25), true));
        for (agreement, failure) in [
            ((|| Ok(Agreement::Difference(f32::INFINITY))) as fn() -> _, "a logit is not a number"),
            (|| Ok(Agreement::Failure("as told".to_owned())), "as told"),
            (|| Err(StartError::Wrong), "self-test"),
        ] {
            let check = outcomes(agreement);
            assert_eq!(check.difference, None);
            assert!(check.failure.unwrap().contains(failure));
        }
    }

    #[test]
    fn without_a_device_no_model_is_read() {
        let weights = Some(super::super::BenchWeights::Random("/nonexistent/config.json".into()));
        let config = CheckConfig { weights, ..config(Some(0)) };
        let absent = |_| Err::<CudaDevice, _>(DeviceError::NoDevice("as told".to_owned()));
        let error = run_checks_on(&config, absent, &Extent::EMULATOR, &mut Vec::new()).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (69, "no device: as told"));
    }
}
