//! Owners inside a user namespace and outside of it.

/// The number that stands for who has no number (the kernel's `overflowuid`).
const NOBODY: u32 = 65_534;

/// What the ids of an archive, those inside, are for the file system: ranges of inside, outside, count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub uids: Vec<(u32, u32, u32)>,
    /// Groups.
    pub gids: Vec<(u32, u32, u32)>,
}

fn outside(ranges: &[(u32, u32, u32)], id: u32) -> Option<u32> {
    ranges.iter().find_map(|(inside, outside, count)| {
        let at = id.checked_sub(*inside).filter(|at| at < count)?;
        outside.checked_add(at)
    })
}

fn inside(ranges: &[(u32, u32, u32)], id: u32) -> u32 {
    let swapped: Vec<_> = ranges.iter().map(|(inside, outside, count)| (*outside, *inside, *count)).collect();
    outside(&swapped, id).unwrap_or(NOBODY)
}

impl Ids {
    /// What a user inside is outside; `None`: nobody.
    pub fn uid_outside(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// What a group inside is outside; `None`: nobody.
    pub fn gid_outside(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }

    /// What a user outside is inside; who is nobody there has the number that the kernel shows.
    pub fn uid_inside(&self, uid: u32) -> u32 {
        inside(&self.uids, uid)
    }

    /// What a group outside is inside; who is nobody there has the number that the kernel shows.
    pub fn gid_inside(&self, gid: u32) -> u32 {
        inside(&self.gids, gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways_and_strangers_are_nobody() {
        let ids = Ids { uids: vec![(0, 100_000, 10), (10, 5_000, 5)], gids: vec![(0, 200_000, 10)] };
        assert_eq!(
            (ids.uid_outside(0), ids.uid_outside(12), ids.uid_outside(15)),
            (Some(100_000), Some(5_002), None)
        );
        assert_eq!((ids.uid_inside(100_009), ids.uid_inside(5_004), ids.uid_inside(0)), (9, 14, NOBODY));
        assert_eq!((ids.gid_outside(3), ids.gid_inside(200_003)), (Some(200_003), 3));
    }
}
