//! Readers do not disturb each other, nor cost samples.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{agent, figures};

#[tokio::test]
async fn all_readers_get_the_same_samples_and_none_costs_one() {
    let agent = agent();
    let begun = Instant::now();
    let read = |pause: Duration| {
        let client = agent.client();
        async move {
            let mut seen: BTreeMap<String, serde_json::Value> = BTreeMap::new();
            let mut reads = 0;
            while begun.elapsed() < Duration::from_secs(6) {
                let mut told = figures(&client).await;
                told.as_object_mut().expect("an object").remove("age_seconds").expect("an age");
                let at = told["sampled_at"].as_str().expect("a time").to_owned();
                let known = seen.entry(at).or_insert_with(|| told.clone());
                assert_eq!(*known, told, "one sample, two answers");
                reads += 1;
                tokio::time::sleep(pause).await;
            }
            (seen, reads)
        }
    };
    let ((greedy, reads), (calm, _)) = tokio::join!(read(Duration::ZERO), read(Duration::from_millis(500)));
    for (at, told) in &calm {
        assert_eq!(greedy.get(at).unwrap_or(told), told);
    }
    let most = begun.elapsed().as_secs() as usize + 2;
    assert!(greedy.len() <= most, "{} samples in {:?}", greedy.len(), begun.elapsed());
    assert!(reads > 10 * greedy.len(), "{reads} reads of {} samples show nothing", greedy.len());
    assert!(calm.keys().any(|at| greedy.contains_key(at)), "they have not seen one sample together");
}
