//! Corrects the checksums of a broken twoskip or twom file. Otherwise a fuzzer finds only "checksum does
//! not match".

const BLANK: &[u8] = b" BLANK\x07\xa0";

/// The file with correct checksums, as far as its records can be recognised one after the other.
pub(crate) fn sealed(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    // A file too short for a field does not have it.
    let _ = if file.starts_with(b"\xa1\x02\x8b\x0dtwom") {
        twom(&mut file)
    } else {
        twoskip(&mut file)
    };
    file
}

fn twoskip(file: &mut [u8]) -> Option<()> {
    let sum = crc32fast::hash(file.get(..60)?);
    put(file, 60, sum.to_be_bytes())?;
    let mut at = 64;
    loop {
        if file.get(at..)?.starts_with(BLANK) {
            at += BLANK.len();
            continue;
        }
        let (level, mut head) = (usize::from(*file.get(at + 1)?), at + 8);
        let mut key = u64::from(u16::from_be_bytes(take(file, at + 2)?));
        let mut value = u64::from(u32::from_be_bytes(take(file, at + 4)?));
        if key == u64::from(u16::MAX) {
            key = u64::from_be_bytes(take(file, head)?);
            head += 8;
        }
        if value == u64::from(u32::MAX) {
            value = u64::from_be_bytes(take(file, head)?);
            head += 8;
        }
        head += 8 * (level + 1);
        let tail = head.checked_add(8)?;
        let tail_len = usize::try_from(key.checked_add(value)?).ok()?;
        let end = tail.checked_add(tail_len.checked_next_multiple_of(8)?)?;
        let sums = [crc32fast::hash(file.get(at..head)?), crc32fast::hash(file.get(tail..end)?)];
        put(file, head, sums[0].to_be_bytes())?;
        put(file, head + 4, sums[1].to_be_bytes())?;
        at = end;
    }
}

fn twom(file: &mut [u8]) -> Option<()> {
    let sum = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_64(bytes) as u32;
    let header = sum(file.get(..92)?);
    put(file, 92, header.to_le_bytes())?;
    let mut at = 96;
    loop {
        let (kind, level) = (*file.get(at)?, usize::from(*file.get(at + 1)?));
        let pointers = match kind {
            1 | 2 => 8,
            3 => 24,
            4 => 16,
            5 => 32,
            6 | 7 => {
                let head = sum(file.get(at..at + 16)?);
                put(file, at + 16, head.to_le_bytes())?;
                at += 24;
                continue;
            }
            _ => return None,
        };
        let (key, value) = if matches!(kind, 3 | 5) {
            (u64::from_le_bytes(take(file, at + 8)?), u64::from_le_bytes(take(file, at + 16)?))
        } else {
            let key = u16::from_le_bytes(take(file, at + 2)?);
            (key.into(), u32::from_le_bytes(take(file, at + 4)?).into())
        };
        let head = at + pointers + 8 * (level + 1);
        let tail = head + 8;
        let tail_len = match kind {
            1 => 0,
            _ => usize::try_from(key.checked_add(value)?.checked_add(2)?).ok()?,
        };
        let end = tail.checked_add(tail_len.checked_next_multiple_of(8)?)?;
        let head_sum = sum(file.get(at..head)?);
        let tail_sum = if end == tail { 0 } else { sum(file.get(tail..end)?) };
        put(file, head, head_sum.to_le_bytes())?;
        put(file, head + 4, tail_sum.to_le_bytes())?;
        at = end;
    }
}

fn take<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}

fn put(file: &mut [u8], at: usize, bytes: [u8; 4]) -> Option<()> {
    *file.get_mut(at..)?.first_chunk_mut()? = bytes;
    Some(())
}
