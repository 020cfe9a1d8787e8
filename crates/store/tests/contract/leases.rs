use keyward_store::StoreError;

use crate::site::{Site, Thing, at, event, on_both_databases};

on_both_databases!(
    a_lease_is_held_by_one_until_it_ends,
    a_lease_survives_clocks_that_jump,
    nothing_is_committed_under_a_lost_lease,
);

const TTL: u32 = 30_000;
const DAY: i64 = 86_400_000;

async fn a_lease_is_held_by_one_until_it_ends(site: Site) {
    let (one, two) = (site.open().await, site.open().await);
    let lease = one.lease("desired", "one", TTL, at(0)).await.unwrap().unwrap();
    assert_eq!((lease.job(), lease.holder()), ("desired", "one"));
    assert_eq!(two.lease("desired", "two", TTL, at(29_999)).await.unwrap(), None);
    assert!(two.lease("alerts", "two", TTL, at(0)).await.unwrap().is_some(), "another job is another lease");
    assert!(one.renew(&lease, TTL, at(20_000)).await.unwrap());
    assert_eq!(two.lease("desired", "two", TTL, at(49_999)).await.unwrap(), None);
    let again = one.lease("desired", "one", TTL, at(40_000)).await.unwrap().unwrap();
    assert!(again.fence() > lease.fence());
    let taken = two.lease("desired", "two", TTL, at(70_000)).await.unwrap().unwrap();
    assert!(taken.fence() > again.fence());
    assert!(!one.renew(&again, TTL, at(70_000)).await.unwrap());
    one.release(&again).await.unwrap();
    assert_eq!(one.lease("desired", "one", TTL, at(70_001)).await.unwrap(), None, "not its to release");
    two.release(&taken).await.unwrap();
    let released = one.lease("desired", "one", TTL, at(70_001)).await.unwrap().unwrap();
    assert!(released.fence() > taken.fence(), "a fence never comes back");
}

async fn a_lease_survives_clocks_that_jump(site: Site) {
    let (one, two) = (site.open().await, site.open().await);
    // Clocks that differ a little take nothing from each other, in either direction.
    let lease = one.lease("desired", "one", TTL, at(5_000)).await.unwrap().unwrap();
    assert_eq!(two.lease("desired", "two", TTL, at(0)).await.unwrap(), None);
    // A holder whose clock was a day ahead does not hold it for a day.
    assert!(one.renew(&lease, TTL, at(DAY)).await.unwrap());
    assert!(two.lease("desired", "two", TTL, at(6_000)).await.unwrap().is_some());
    assert!(!one.renew(&lease, TTL, at(6_000)).await.unwrap());
    // A clock that jumps back: the holder goes on.
    let lease = two.lease("desired", "two", TTL, at(7_000)).await.unwrap().unwrap();
    assert!(two.renew(&lease, TTL, at(-DAY)).await.unwrap());
}

async fn nothing_is_committed_under_a_lost_lease(site: Site) {
    let (one, two) = (site.open().await, site.open().await);
    let mut change = one.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let lease = one.lease("rotation", "one", TTL, at(0)).await.unwrap().unwrap();
    // The other's clock is a day ahead: it takes the lease while the first still works under it.
    let stolen = two.lease("rotation", "two", TTL, at(DAY)).await.unwrap().unwrap();
    let mut rotate = one.change().await.unwrap();
    rotate.update(&Thing { count: 1, ..Thing::new("c1", "p1", "shop") }, 1).await.unwrap();
    let lost = rotate.require_lease(&lease).await.unwrap_err();
    assert!(matches!(&lost, StoreError::LeaseLost { job } if job == "rotation"), "{lost:?}");
    drop(rotate);
    let mut rotate = two.change().await.unwrap();
    rotate.require_lease(&stolen).await.unwrap();
    rotate.update(&Thing { count: 1, ..Thing::new("c1", "p1", "shop") }, 1).await.unwrap();
    rotate.commit(event(), at(DAY)).await.unwrap();
    assert_eq!(one.read().await.unwrap().get::<Thing>("c1").await.unwrap().unwrap().revision, 2);
}
