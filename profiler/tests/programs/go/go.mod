module example.org/target

go 1.19

require example.org/given v1.2.3

replace example.org/given v1.2.3 => ./given
