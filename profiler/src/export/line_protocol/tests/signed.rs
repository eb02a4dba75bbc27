//! Unsigned fields as integers.

use crate::export::line_protocol::signed;

#[test]
fn only_values_of_unsigned_fields_are_changed() {
    let lines = "\
m\\ f=1u,k=2u,t=a\\ b\\=3u,z=\\,4u a=5u,b=6i,c=\"7u,d=8u 9u\",e=10u,f=t,g=1.5 11\n\
n\\\\,k=\\\\\\ x 1u\\ 2u=3u,\\\"=4u,t=\"a\\\",x=1u,y=1u,\\\\\",u=5u\n\
o a=18446744073709551615u,b=9223372036854775808u,c=9223372036854775807u,d=0u -1\n\
p s=\"line\nbreak a=1u,b=2u\",v=1u\n\
";
    let expected = "\
m\\ f=1u,k=2u,t=a\\ b\\=3u,z=\\,4u a=5i,b=6i,c=\"7u,d=8u 9u\",e=10i,f=t,g=1.5 11\n\
n\\\\,k=\\\\\\ x 1u\\ 2u=3i,\\\"=4i,t=\"a\\\",x=1u,y=1u,\\\\\",u=5i\n\
o a=9223372036854775807i,b=9223372036854775807i,c=9223372036854775807i,d=0i -1\n\
p s=\"line\nbreak a=1u,b=2u\",v=1i\n\
";
    assert_eq!(signed(lines), expected);
    assert_eq!(signed(expected), expected);
}

#[test]
fn what_is_no_unsigned_number_stays_and_nothing_fails() {
    for text in [
        "",
        "m",
        "m f=",
        "m f=u",
        "m f=-1u",
        "m f=+1u",
        "m f=18446744073709551616u",
        "m f=\"1u",
        "m f=é1u 1u",
    ] {
        assert_eq!(signed(text), text);
    }
    assert_eq!(signed("m f=1u"), "m f=1i");
}
