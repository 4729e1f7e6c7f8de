//! The checksums of serial sensor frames, each a plain function over the bytes it covers.

/// Sum of all bytes modulo 256 (SDS011, TFmini, WT901).
pub fn sum8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Sum of all bytes modulo 65 536 (Plantower PMS5003, Honeywell HPMA115).
pub fn sum16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(u16::from(*byte)))
}

/// Exclusive or of all bytes (NMEA 0183: everything between `$` and `*`).
pub fn xor8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

/// The 8-bit Fletcher sum of UBX frames over class, id, length and payload (RFC 1145 with modulus 256).
pub fn fletcher8(bytes: &[u8]) -> [u8; 2] {
    bytes.iter().fold([0_u8, 0], |[a, b], byte| {
        let a = a.wrapping_add(*byte);
        [a, b.wrapping_add(a)]
    })
}

/// CRC-24Q of RTCM 3 frames over preamble, length and payload (RTCM 10403, polynomial 0x1864CFB, initial value 0).
pub fn crc24q(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| {
        let mut crc = crc ^ (u32::from(*byte) << 16);
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0186_4CFB;
            }
        }
        crc & 0x00FF_FFFF
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sum_gives_its_published_value() {
        assert_eq!(sum8(&[0x8C, 0x00, 0x94, 0x00, 0xBC, 0xF9]), 0xD5);
        assert_eq!(sum16(&[0xFF; 300]), (300_u32 * 255 % 65_536) as u16);
        assert_eq!(xor8(b"GPGLL,5300.97914,N,00259.98174,E,125926,A"), 0x28);
        assert_eq!(crc24q(b"123456789"), 0x00CD_E703, "check value of CRC-24/LTE-A's polynomial (CRC-24Q)");
        assert_eq!(fletcher8(&[0x06, 0x01, 0x03, 0x00, 0xF0, 0x05, 0x00]), [0xFF, 0x19]);
    }
}
