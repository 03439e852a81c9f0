# Reads abidiff's report on two libraries, and fails on every difference except structs that grew at their
# end, which the header permits. abidiff itself can ignore those (`has_data_member_inserted_at = end`),
# but abidiff 2.2 then also ignores other changes in such a struct.

/^ *$/ { next }
/changes summary: 0 Removed, / { next }
/^ *[0-9]+ functions? with some indirect sub-type change/ { next }
/^ *\[C\] .* has some indirect sub-type changes:$/ { next }
/^ *parameter [0-9]+ of type '.*\*' has sub-type changes:$/ { next }
/^ *in pointed to type 'struct .*::mr_(options|decision|reply|status)':$/ { next }
/^ *type size changed from [0-9]+ to [0-9]+ \(in bits\)$/ { end = $5; next }
/^ *[0-9]+ data member insertions?:$/ { next }
/^ *'.*', at offset [0-9]+ \(in bits\)$/ {
    offset = $(NF - 2)
    if (end != "" && offset + 0 >= end + 0)
        next
}
{ print "check-abi: not a struct that grows at its end: " $0; wrong = 1 }
END { exit wrong }
