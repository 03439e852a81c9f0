# Reads what abidiff says of two libraries and fails unless all of it is structs that have grown at their
# end, which the header allows. abidiff itself can leave those out (`has_data_member_inserted_at = end`),
# but 2.2 then leaves out as well what else has changed in such a struct.

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
{ print "check-abi: this is no struct that grows at its end: " $0; wrong = 1 }
END { exit wrong }
